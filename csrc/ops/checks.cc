#include "ops/checks.h"

namespace fastneg::ops {

std::string Text(int64_t value) { return std::to_string(value); }

void CheckEmbeddings(KernelContext& context, const char* left_name, const Tensor& left, const char* right_name,
                     const Tensor& right) {
  if (left.rank() != 2) {
    context.Refuse(std::string("`") + left_name +
                   "` must have rank 2, [batch_size, embedding_dim]. Received: " + left.ShapeText() + ".");
  } else if (right.rank() != 2 || right.dim(0) != left.dim(0) || right.dim(1) != left.dim(1)) {
    context.Refuse(std::string("`") + right_name + "` must have the shape of `" + left_name + "`, " + left.ShapeText() +
                   ". Received: " + right.ShapeText() + ".");
  }
}

void CheckPerRow(KernelContext& context, const char* name, const Tensor& tensor, int64_t batch_size,
                 bool column_allowed) {
  if (!tensor) return;
  const bool vector = tensor.rank() == 1 && tensor.dim(0) == batch_size;
  const bool column = tensor.rank() == 2 && tensor.dim(0) == batch_size && tensor.dim(1) == 1;
  if (vector || (column && column_allowed)) return;
  const std::string size = Text(batch_size);
  context.Refuse(std::string("`") + name + "` must have shape [" + size + "]" +
                 (column_allowed ? " or [" + size + ", 1]" : "") + ". Received: " + tensor.ShapeText() + ".");
}

void CheckScalar(KernelContext& context, const char* name, const Tensor& tensor) {
  if (tensor.rank() == 0) return;
  context.Refuse(std::string("`") + name + "` must be a scalar. Received: " + tensor.ShapeText() + ".");
}

void CheckComputeType(KernelContext& context, const char* names, DType compute_dtype, DType dtype) {
  if (compute_dtype == (dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32)) return;
  context.Refuse(std::string(names) + " must be float64 exactly when the embeddings are, and float32 otherwise.");
}

void CheckRowOptions(KernelContext& context, const RowOptions& options, bool has_probabilities) {
  if (options.positive_in_softmax && options.negative_weight != 1) {
    context.Refuse("`negative_weight` must be 1 where the positive is in the softmax. Received: " +
                   std::to_string(options.negative_weight) + ".");
  }
  if (options.refined && (options.positive_in_softmax || !has_probabilities)) {
    context.Refuse(
        "`refined` must come with sampling probabilities and the positive not in the softmax. Received: neither or one "
        "of them.");
  }
}

double ScalarValue(const Tensor& tensor) {
  return tensor.dtype() == DType::kFloat64 ? *static_cast<const double*>(tensor.data())
                                           : static_cast<double>(*static_cast<const float*>(tensor.data()));
}

void ReadScalar(const Tensor& tensor, double* value, const void** on_device) {
  if (tensor.on_device()) {
    *on_device = tensor.data();
  } else {
    *value = ScalarValue(tensor);
  }
}

}  // namespace fastneg::ops
