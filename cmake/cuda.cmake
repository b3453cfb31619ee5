# CUDA kernels: which architectures, with what compiler, as the library sky4_cuda.
#
# In:  the environment's SKY4_CUDA_ARCHS: a list such as "80;86;89;90a" (also with commas or spaces), "all" for these
#      four, "none"; unset or empty: those of the GPUs in this machine.
# Out: sky4_archs, the architectures built (empty: none), and sky4_cuda_says, one line for people.

set(sky4_archs "")
set(sky4_asked "$ENV{SKY4_CUDA_ARCHS}")
string(REGEX REPLACE "[, ;]+" ";" sky4_asked "${sky4_asked}")
# Kernels are .cu; what only calls the runtime may be .cpp.
file(GLOB_RECURSE sky4_cu CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/*.cu ${PROJECT_SOURCE_DIR}/csrc/cuda/*.cpp)

if(sky4_asked STREQUAL "all")
  set(sky4_archs 80 86 89 90a)
elseif(sky4_asked STREQUAL "none")
  set(sky4_cuda_says "CUDA kernels left out (SKY4_CUDA_ARCHS is none)")
elseif(NOT sky4_asked STREQUAL "")
  set(sky4_archs ${sky4_asked})
  foreach(arch IN LISTS sky4_archs)
    if(NOT arch MATCHES "^(8[0-9]|9[0-9]a?|1[0-9][0-9][af]?)$")
      message(FATAL_ERROR "SKY4_CUDA_ARCHS holds '${arch}', expected architectures from 80 on such as 80;86;89;90a, "
        "or all, or none")
    endif()
  endforeach()
else()
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader
    OUTPUT_VARIABLE found ERROR_QUIET RESULT_VARIABLE failed)
  if(failed)
    set(sky4_cuda_says "CUDA kernels left out (no GPU in this machine and SKY4_CUDA_ARCHS not set)")
  else()
    string(REGEX MATCHALL "[0-9]+\\.[0-9]" found "${found}")
    foreach(capability IN LISTS found)
      string(REPLACE "." "" arch ${capability})
      if(arch GREATER_EQUAL 80)
        list(APPEND sky4_archs ${arch})
      endif()
    endforeach()
    list(REMOVE_DUPLICATES sky4_archs)
    # wgmma and setmaxnreg belong to the a-variant of 9.0 alone.
    list(TRANSFORM sky4_archs REPLACE "^90$" "90a")
    if(NOT sky4_archs)
      set(sky4_cuda_says "CUDA kernels left out (the GPU here has compute capability ${found}; they need 8.0)")
    endif()
  endif()
endif()

if(sky4_archs)
  list(TRANSFORM sky4_archs APPEND "-real" OUTPUT_VARIABLE CMAKE_CUDA_ARCHITECTURES)
  if(NOT DEFINED ENV{CUDACXX})
    find_program(sky4_nvcc nvcc PATHS ENV CUDA_HOME ENV CUDA_PATH /usr/local/cuda PATH_SUFFIXES bin)
    if(sky4_nvcc)
      set(ENV{CUDACXX} ${sky4_nvcc})
    endif()
  endif()
  if(sky4_asked STREQUAL "")
    # Not asked for by name: a missing or failing nvcc costs the CUDA kernels, not the build.
    include(CheckLanguage)
    check_language(CUDA)
    if(NOT CMAKE_CUDA_COMPILER)
      set(why "no nvcc found; install the CUDA toolkit or name its nvcc in CUDACXX")
      if(DEFINED ENV{CUDACXX})
        set(why "$ENV{CUDACXX} does not work here; see build/setup.log")
      endif()
      set(sky4_cuda_says "CUDA kernels for the GPU here (${sky4_archs}) left out (${why})")
      set(sky4_archs "")
    endif()
  elseif(NOT DEFINED ENV{CUDACXX})
    message(FATAL_ERROR "SKY4_CUDA_ARCHS asks for CUDA kernels and no nvcc is found; install the CUDA toolkit, name its "
      "nvcc in CUDACXX, or set SKY4_CUDA_ARCHS=none")
  endif()
endif()
if(NOT sky4_archs)
  file(REMOVE ${PROJECT_BINARY_DIR}/ptxas.log)
  return()
endif()

set(CMAKE_CUDA_RUNTIME_LIBRARY Static)
set(CMAKE_CUDA_STANDARD 17)
set(CMAKE_CUDA_STANDARD_REQUIRED ON)
enable_language(CUDA)

# Of each file, what the compiler said (registers, spills, notes) is kept beside its object; see ptxas.log below.
function(sky4_cuda_options target archs)
  list(TRANSFORM archs APPEND "-real")
  set_target_properties(${target} PROPERTIES CUDA_ARCHITECTURES "${archs}"
    CUDA_COMPILER_LAUNCHER "${PROJECT_SOURCE_DIR}/cmake/keep_log")
  target_compile_options(${target} PRIVATE
    $<$<COMPILE_LANGUAGE:CUDA>:-lineinfo -Xptxas=-v -Xcompiler=-Wall> $<$<COMPILE_LANGUAGE:CXX>:-Wall -Wextra>)
  target_include_directories(${target} SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
endfunction()

set(sky4_sm90_cu ${sky4_cu})
list(FILTER sky4_sm90_cu INCLUDE REGEX "/csrc/cuda/sm90/")
list(FILTER sky4_cu EXCLUDE REGEX "/csrc/cuda/sm90/")
add_library(sky4_cuda STATIC ${sky4_cu})
sky4_cuda_options(sky4_cuda "${sky4_archs}")
set(sky4_cuda_objects $<TARGET_OBJECTS:sky4_cuda>)
set(sky4_cuda_says "CUDA kernels for ${sky4_archs} (nvcc ${CMAKE_CUDA_COMPILER_VERSION})")

if(sky4_sm90_cu AND "90a" IN_LIST sky4_archs)
  execute_process(OUTPUT_VARIABLE cutlass OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND ${Python_EXECUTABLE} -c
    "from importlib.util import find_spec as f; s = f('cutlass_library'); print(s.submodule_search_locations[0] if s else '')")
  set(cutlass ${cutlass}/source/include)
  if(EXISTS ${cutlass}/cute/tensor.hpp)
    add_library(sky4_cuda_sm90 OBJECT ${sky4_sm90_cu})
    sky4_cuda_options(sky4_cuda_sm90 90a)
    target_include_directories(sky4_cuda_sm90 SYSTEM PRIVATE ${cutlass})
    # Without this, tiles of width 176 compile without a word to matrix instructions of width 16.
    target_compile_definitions(sky4_cuda_sm90 PRIVATE CUTE_SM90_EXTENDED_MMA_SHAPES_ENABLED)
    target_compile_definitions(sky4_cuda PRIVATE SKY4_CUDA_SM90)
    target_sources(sky4_cuda PRIVATE $<TARGET_OBJECTS:sky4_cuda_sm90>)
    list(APPEND sky4_cuda_objects $<TARGET_OBJECTS:sky4_cuda_sm90>)
  else()
    string(APPEND sky4_cuda_says "; without the sm_90a kernels: the CUTLASS headers are missing, run: "
      "${Python_EXECUTABLE} -m pip install --no-deps -r requirements-cuda.txt")
  endif()
endif()

# All of it in one file, for `sky4 bench --ptxas` and the compiler gate.
set(sky4_cuda_objects $<FILTER:${sky4_cuda_objects},INCLUDE,[.]cu[.]o>)
add_custom_command(TARGET sky4_cuda POST_BUILD COMMAND_EXPAND_LISTS VERBATIM
  COMMAND ${CMAKE_COMMAND} -E cat "$<LIST:TRANSFORM,${sky4_cuda_objects},APPEND,.log>" > ${PROJECT_BINARY_DIR}/ptxas.log)

if(SKY4_TESTS)
  # Against the CPU kernels, so these come first: they call sky4::cuda.
  add_executable(sky4_cuda_cases ${PROJECT_SOURCE_DIR}/csrc/tests/cuda_cases.cpp)
  target_include_directories(sky4_cuda_cases SYSTEM PRIVATE ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
  target_compile_options(sky4_cuda_cases PRIVATE -Wall -Wextra)
  target_link_libraries(sky4_cuda_cases PRIVATE sky4_cpu sky4_cuda)
endif()
