// What the lowering writes into XLA's program, and the handler reads.
#ifndef FASTNEG_TF_CXX_XLA_CUSTOM_CALL_H_
#define FASTNEG_TF_CXX_XLA_CUSTOM_CALL_H_

namespace fastneg::tf_cxx {

// The custom call's target. Its attributes:
//   op           "Fastneg>RolledSoftmax"
//   flags        the op's own attributes, as LossOp has them
//   num_threads  how many the workspace was measured for; on CPUs only
//   scalars      for each input the bits of its value as a double, if it is a scalar that XLA knows; on GPUs only
//   known        bit i says whether XLA knows scalar i; on GPUs only
constexpr char kTarget[] = "fastneg_loss";

}  // namespace fastneg::tf_cxx

#endif  // FASTNEG_TF_CXX_XLA_CUSTOM_CALL_H_
