# Sourced by scripts/sky4 and scripts/test: makes and keeps this checkout's own environment in .venv.
#
#   sky4_setup [dev]     returns at once when everything stands; says one line per step on stderr otherwise
#
# What a person may set:
#   SKY4_PYTHON          the Python to build the environment with (3.11 to 3.14); otherwise the first one found
#   SKY4_TORCH_INDEX     an extra package index for torch, such as https://download.pytorch.org/whl/cpu; empty = none.
#                        Unset: that CPU index on a Linux machine without an NVIDIA GPU, none on any other.
#   CXX                  the C++17 compiler
#   SKY4_CUDA_ARCHS      what GPUs to build CUDA kernels for: a list such as "80 86 89 90a", all, none; unset: the GPUs here
#   CUDACXX              the nvcc to build them with; otherwise the one on the path or in CUDA_HOME or /usr/local/cuda
#
# .venv/.stamps/<step> holds the checksums of the files that the step was made from. A step whose stamp differs is done
# again. .venv/.stamps/busy exists while packages are being changed: an environment found in that state is made anew.
# Written for the bash 3.2 and the tools that any Linux or macOS has.

sky4_say() { printf 'sky4: %s\n' "$*" >&2; }

sky4_die() {
    sky4_say "$*"
    exit 1
}

sky4_checksums() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum "$@"; else shasum -a 256 "$@"; fi
}

# The names and contents of the files that each step depends on.
sky4_wanted() {
    case $1 in
        libs) sky4_checksums requirements.txt ;;
        dev) sky4_checksums requirements-dev.txt ;;
        build) find csrc cmake \( -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' -o -name '*.cmake' \) -print |
            LC_ALL=C sort | {
                IFS=$'\n' read -r -d '' -a files || true
                sky4_checksums setup.py CMakeLists.txt requirements-cuda.txt "${files[@]}"
                printf 'SKY4_CUDA_ARCHS=%s\n' "${SKY4_CUDA_ARCHS:-}"
            } ;;
    esac
}

sky4_stands() {
    local stamp=.venv/.stamps/$1
    [ -f "$stamp" ] && [ "$(<"$stamp")" = "$(sky4_wanted "$1")" ] || return 1
    [ "$1" != build ] || compgen -G 'python_model/sky4/_C.*.so' >/dev/null
}

sky4_stamp() {
    sky4_wanted "$1" >".venv/.stamps/$1.partial"
    mv ".venv/.stamps/$1.partial" ".venv/.stamps/$1"
}

sky4_all_stand() {
    local step
    [ -x .venv/bin/python ] && [ ! -e .venv/.stamps/busy ] || return 1
    for step in "$@"; do sky4_stands "$step" || return 1; done
}

sky4_find_python() {
    local candidate
    for candidate in ${SKY4_PYTHON:+"$SKY4_PYTHON"} python3 python3.13 python3.12 python3.11 python3.14 python; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
        [ -z "${SKY4_PYTHON:-}" ] || sky4_die "SKY4_PYTHON is '$SKY4_PYTHON', which is no Python 3.11 to 3.14; name another."
    done
    local found
    found=$(python3 -c 'import platform; print(", the one here is " + platform.python_version())' 2>/dev/null || true)
    sky4_die "Python 3.11 to 3.14 is needed$found; install one or name it in SKY4_PYTHON."
}

# Everything that can be known to be missing is said before anything is downloaded.
sky4_check_machine() {
    local python=$1 free need=3
    "$python" -c 'import venv, ensurepip' 2>/dev/null ||
        sky4_die "$python has no venv module; install it (Debian and Ubuntu: apt install python3-venv) and run this again."
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))' ||
        sky4_die "$python has no C headers; install them (Debian and Ubuntu: apt install python3-dev) and run this again."
    if [ -n "${CXX:-}" ]; then
        command -v "${CXX%% *}" >/dev/null || sky4_die "CXX is '$CXX', which is not found; name a C++17 compiler or unset it."
    else
        command -v c++ >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
            sky4_die "no C++ compiler is found; install g++ or clang++ (Debian and Ubuntu: apt install g++) and run this again."
    fi
    if [ ! -f .venv/.stamps/libs ]; then
        ! sky4_has_gpu || need=9 # torch for CUDA and its libraries
        free=$(df -Pk . | awk 'NR == 2 { print $4 }')
        [ -z "$free" ] || [ "$free" -ge $((need * 1024 * 1024)) ] ||
            sky4_die "set-up needs about $need GB of disk in $PWD and $((free / 1024)) MB are free; make room and run this again."
    fi
}

sky4_has_gpu() { [ -e /proc/driver/nvidia/version ] || { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; }

# Prints the extra index to ask for torch, if any.
sky4_torch_index() {
    local cpu=https://download.pytorch.org/whl/cpu
    if [ -n "${SKY4_TORCH_INDEX+set}" ]; then
        printf '%s' "$SKY4_TORCH_INDEX"
    elif [ "$(uname -s)" = Linux ] && ! sky4_has_gpu; then
        # Asked first, because pip would try an index out of reach again and again.
        if .venv/bin/python -c "import urllib.request as r; r.urlopen('$cpu/torch/', timeout=10).close()" 2>/dev/null; then
            printf '%s' "$cpu"
        fi
    fi
}

# sky4_run "installing torch" COMMAND...: the command's own words go to the log.
sky4_run() {
    local what=$1
    shift
    if ! "$@" >>build/setup.log 2>&1; then
        sky4_die "$what failed: $(sky4_reason) (all of it is in $PWD/build/setup.log; run this again to take it up anew)"
    fi
}

# The line of the log that says most: a full disk, else the first error, else the last line.
sky4_reason() {
    local line
    line=$(grep -iE -m 1 'no space left' build/setup.log || grep -iE -m 1 '(^|[^a-z])(fatal )?error:' build/setup.log ||
        tail -n 1 build/setup.log)
    printf '%s' "$line" | cut -c 1-300
}

sky4_pip() { .venv/bin/python -m pip install --disable-pip-version-check --no-input --progress-bar off "$@"; }

sky4_make_environment() {
    local python=$1
    sky4_say "making a virtual environment in $PWD/.venv with $("$python" --version 2>&1)"
    sky4_run "making the virtual environment" "$python" -m venv --clear .venv
    mkdir -p .venv/.stamps
    # Two lines in place of an installed package: sources are used where they lie, and nothing runs at start-up.
    local site
    site=$(.venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    printf '%s\n' ../../../../python_model ../../../.. >"$site/sky4.pth"
}

sky4_install_libs() {
    local torch index
    torch=$(grep '^torch==' requirements.txt)
    index=$(sky4_torch_index)
    sky4_say "installing $torch${index:+ (also looking in $index)}; this takes a few minutes the first time"
    # Without its dependencies: the extra index serves torch alone.
    sky4_run "installing $torch" sky4_pip --no-deps ${index:+--extra-index-url "$index"} "$torch"
    sky4_say "installing the other libraries of requirements.txt"
    sky4_run "installing the libraries" sky4_pip -r requirements.txt
}

# Whether CUDA kernels may be built; CMake has the last word (cmake/cuda.cmake).
sky4_wants_cuda() {
    case ${SKY4_CUDA_ARCHS:-} in
        none) return 1 ;;
        '') sky4_has_gpu ;;
    esac
}

sky4_build() {
    ! sky4_wants_cuda || sky4_run "installing the CUTLASS headers" sky4_pip --no-deps -r requirements-cuda.txt
    sky4_say "building sky4._C"
    sky4_run "building sky4._C" .venv/bin/python setup.py build_ext --inplace
    sky4_say "$(sed -n 's/^-- sky4\._C: /sky4._C: /p' build/setup.log | tail -n 1)"
    sky4_run "loading sky4._C" .venv/bin/python -c 'import sky4._C'
}

# Two first runs at once: the second waits here. The lock belongs to descriptor 9, which outlives the Python that takes
# it and ends with this shell, however that ends.
sky4_lock() {
    local python=$1 flock='import fcntl, sys
try: fcntl.flock(9, fcntl.LOCK_EX | int(sys.argv[1]))
except BlockingIOError: sys.exit(3)'
    exec 9>.venv.lock || sky4_die "cannot write in $PWD; set-up needs to, once."
    "$python" -c "$flock" 4 && return # 4 is LOCK_NB
    sky4_say "another set-up is running in $PWD; waiting for it to end"
    "$python" -c "$flock" 0
}

sky4_set_up() {
    local python
    [ -w . ] || sky4_die "cannot write in $PWD; set-up needs to, once."
    python=$(sky4_find_python)
    sky4_lock "$python"
    sky4_all_stand "$@" && return # somebody else did it meanwhile
    sky4_check_machine "$python"
    mkdir -p build
    : >build/setup.log

    local step
    if [ ! -x .venv/bin/python ] || [ -e .venv/.stamps/busy ] || [ ! -f .venv/.stamps/libs ]; then
        sky4_make_environment "$python"
    fi
    for step in "$@"; do
        ! sky4_stands "$step" || continue
        case $step in
            libs)
                : >.venv/.stamps/busy
                rm -f .venv/.stamps/build # it was built with the libraries of before
                sky4_install_libs
                ;;
            dev)
                : >.venv/.stamps/busy
                sky4_say "installing the test tools of requirements-dev.txt"
                sky4_run "installing the test tools" sky4_pip -r requirements-dev.txt
                ;;
            build) sky4_build ;;
        esac
        sky4_stamp "$step"
        rm -f .venv/.stamps/busy
    done
    sky4_say "ready"
}

sky4_setup() {
    local steps=(libs)
    [ "${1:-}" != dev ] || steps+=(dev)
    steps+=(build)
    local before=$PWD
    cd "$SKY4_ROOT" || sky4_die "cannot enter $SKY4_ROOT."
    sky4_all_stand "${steps[@]}" || {
        sky4_set_up "${steps[@]}"
        exec 9>&- # the lock
    }
    cd "$before" || sky4_die "cannot return to $before."
}
