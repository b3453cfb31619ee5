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

# sky4_test(NAME SOURCE... [INCLUDE FOLDER...] [OPTIONS OPTION...]): a program that exits with 0 where all holds.
# Those named cpu_* run once for every instruction-set level. Paths are relative to csrc/tests.
function(sky4_test name)
  cmake_parse_arguments(PARSE_ARGV 1 given "" "" "INCLUDE;OPTIONS")
  list(TRANSFORM given_UNPARSED_ARGUMENTS PREPEND ${PROJECT_SOURCE_DIR}/csrc/tests/)
  list(TRANSFORM given_INCLUDE PREPEND ${PROJECT_SOURCE_DIR}/csrc/tests/)
  add_executable(${name} ${given_UNPARSED_ARGUMENTS})
  target_include_directories(${name} PRIVATE ${given_INCLUDE})
  target_compile_options(${name} PRIVATE -Wall -Wextra -ffp-contract=off ${given_OPTIONS})
  target_link_libraries(${name} PRIVATE sky4_cpu)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${PROJECT_BINARY_DIR}/tests)
  add_dependencies(sky4_tests ${name})
endfunction()

function(sky4_add_tests)
  add_custom_target(sky4_tests)
endfunction()
