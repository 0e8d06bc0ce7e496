// Whether this process may use the processor's matrix registers (AMX).
#ifndef FASTNEG_CORE_CPU_RUNTIME_MATRIX_REGISTERS_H_
#define FASTNEG_CORE_CPU_RUNTIME_MATRIX_REGISTERS_H_

namespace fastneg::cpu {

// Whether the processor has them, with products of bfloat16, and the system knows of them.
bool HasMatrixRegisters();

// Asks the system for them, once. They make the frames of signals larger, so that this is done before they are needed
// and no earlier. False where the system refuses: the stack that some thread has for signals is too small.
bool AcquireMatrixRegisters();

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_MATRIX_REGISTERS_H_
