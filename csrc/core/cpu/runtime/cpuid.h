// The compiler's <cpuid.h>, which GCC guards against being included twice in newer versions only.
#ifndef FASTNEG_CORE_CPU_RUNTIME_CPUID_H_
#define FASTNEG_CORE_CPU_RUNTIME_CPUID_H_

#ifdef __x86_64__
#include <cpuid.h>
#endif

#endif  // FASTNEG_CORE_CPU_RUNTIME_CPUID_H_
