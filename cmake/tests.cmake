# Programs that test the C++ without Python, and sanitizers over all C++; scripts/test_native uses both.
#
#   SKY4_TESTS=ON        builds the programs that sky4_add_tests lists (target sky4_tests)
#   SKY4_SANITIZE=LIST   such as address,undefined or thread; any report ends the program

option(SKY4_TESTS "Build the programs of csrc/tests" OFF)
set(SKY4_SANITIZE "" CACHE STRING "Sanitizers of the compiler, such as address,undefined or thread")

if(SKY4_SANITIZE)
  add_compile_options($<$<COMPILE_LANGUAGE:CXX>:-fsanitize=${SKY4_SANITIZE}>
    $<$<COMPILE_LANGUAGE:CXX>:-fno-sanitize-recover=all> $<$<COMPILE_LANGUAGE:CXX>:-fno-omit-frame-pointer>)
  add_link_options(-fsanitize=${SKY4_SANITIZE})
endif()

# sky4_test(NAME SOURCE... [EMULATION FOLDER CUDA SOURCE...] [SANITIZERS NAME...]): a program that exits with 0 where all
# holds. Those named cpu_* run once for every instruction-set level. Paths are relative to csrc/tests.
#   EMULATION   CUDA sources to compile as C++, with this folder's stand-ins for the CUDA runtime first on the path
#   SANITIZERS  what it can run under, by the sanitizer's first name; unset: all
function(sky4_test name)
  cmake_parse_arguments(PARSE_ARGV 1 given "" "EMULATION" "CUDA;SANITIZERS")
  string(REGEX REPLACE ",.*" "" sanitizer "${SKY4_SANITIZE}")
  if(given_SANITIZERS AND sanitizer AND NOT sanitizer IN_LIST given_SANITIZERS)
    return()
  endif()
  set(folder ${PROJECT_SOURCE_DIR}/csrc/tests)
  list(TRANSFORM given_UNPARSED_ARGUMENTS PREPEND ${folder}/ OUTPUT_VARIABLE sources)
  foreach(source IN LISTS given_CUDA)
    # One line of C++ each: CMake would compile the .cu files themselves as CUDA.
    string(REGEX REPLACE "[./]+" "_" stem ${source})
    file(CONFIGURE OUTPUT ${name}/${stem}.cpp CONTENT "#include \"${folder}/${source}\"\n")
    list(APPEND sources ${PROJECT_BINARY_DIR}/${name}/${stem}.cpp)
  endforeach()
  add_executable(${name} ${sources})
  if(given_EMULATION)
    target_include_directories(${name} BEFORE PRIVATE ${folder}/${given_EMULATION})
    target_compile_definitions(${name} PRIVATE SKY4_EMULATED)
  endif()
  target_compile_options(${name} PRIVATE -Wall -Wextra -ffp-contract=off)
  target_link_libraries(${name} PRIVATE sky4_cpu)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_dependencies(sky4_tests ${name})
endfunction()

function(sky4_add_tests)
  add_custom_target(sky4_tests)
  sky4_test(sm90_schedule sm90_schedule.cpp)
  sky4_test(sm90_numerics sm90_numerics.cpp)
  file(GLOB sm80 RELATIVE ${PROJECT_SOURCE_DIR}/csrc/tests CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/csrc/cuda/sm80/*.cu)
  sky4_test(emulated_attention emulated_attention.cpp EMULATION emulation_sm80 CUDA ../cuda/attention.cu ${sm80})
  sky4_test(cpu_kernels cpu_kernels.cpp)
endfunction()
