// What the lowering writes into XLA's program, and the handler reads.
#ifndef FASTNEG_TF_XLA_CUSTOM_CALL_H_
#define FASTNEG_TF_XLA_CUSTOM_CALL_H_

namespace fastneg::tf_xla {

// The custom call's target. Its attributes: `op`, a string; `flags` and `num_threads`, of 64 bits.
constexpr char kTarget[] = "fastneg_loss";

}  // namespace fastneg::tf_xla

#endif  // FASTNEG_TF_XLA_CUSTOM_CALL_H_
