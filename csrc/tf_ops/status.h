// A TF_Status that frees itself.
#ifndef FASTNEG_TF_OPS_STATUS_H_
#define FASTNEG_TF_OPS_STATUS_H_

#include "tf_ops/tf_c_api.h"

namespace fastneg::tf_ops {

class ScopedStatus {
 public:
  ScopedStatus() : status_(TF_NewStatus()) {}
  ~ScopedStatus() { TF_DeleteStatus(status_); }
  ScopedStatus(const ScopedStatus&) = delete;
  ScopedStatus& operator=(const ScopedStatus&) = delete;

  bool ok() const { return TF_GetCode(status_) == TF_OK; }
  TF_Status* get() const { return status_; }

 private:
  TF_Status* status_;
};

}  // namespace fastneg::tf_ops

#endif  // FASTNEG_TF_OPS_STATUS_H_
