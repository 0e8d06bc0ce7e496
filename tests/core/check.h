// The whole test framework of the C++ tests: a condition that ends the test with a message.
#ifndef FASTNEG_TESTS_CORE_CHECK_H_
#define FASTNEG_TESTS_CORE_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define FASTNEG_CHECK(condition)                                                         \
  do {                                                                                   \
    if (!(condition)) {                                                                  \
      std::fprintf(stderr, "%s:%d: %s does not hold\n", __FILE__, __LINE__, #condition); \
      std::_Exit(1);                                                                     \
    }                                                                                    \
  } while (false)

#endif  // FASTNEG_TESTS_CORE_CHECK_H_
