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

# A program of csrc/tests that exits with 0 where all holds. Those named cpu_* run once for every instruction-set level.
# The emulated CUDA kernels are not among them: they watch their own memory and order, and the Python tests run them.
function(sky4_test name)
  add_executable(${name} ${PROJECT_SOURCE_DIR}/csrc/tests/${name}.cpp)
  target_compile_options(${name} PRIVATE -Wall -Wextra -ffp-contract=off)
  target_link_libraries(${name} PRIVATE sky4_cpu)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_dependencies(sky4_tests ${name})
endfunction()

function(sky4_add_tests)
  add_custom_target(sky4_tests)
  sky4_test(cpu_kernels)
  sky4_test(sm90_numerics)
  sky4_test(sm90_schedule)
endfunction()
