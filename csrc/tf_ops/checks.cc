#include "tf_ops/checks.h"

namespace fastneg::tf_ops {

std::string Text(int64_t value) { return std::to_string(value); }

void CheckEmbeddings(KernelContext& context, const char* left_name, const Tensor& left, const char* right_name,
                     const Tensor& right) {
  if (left.rank() != 2) {
    context.Fail(TF_INVALID_ARGUMENT,
                 std::string("`") + left_name +
                     "` must have rank 2, [batch_size, embedding_dim]. Received: " + left.ShapeText() + ".");
  } else if (right.rank() != 2 || right.dim(0) != left.dim(0) || right.dim(1) != left.dim(1)) {
    context.Fail(TF_INVALID_ARGUMENT, std::string("`") + right_name + "` must have the shape of `" + left_name + "`, " +
                                          left.ShapeText() + ". Received: " + right.ShapeText() + ".");
  }
}

void CheckPerRow(KernelContext& context, const char* name, const Tensor& tensor, int64_t batch_size,
                 bool column_allowed) {
  if (!tensor) return;
  const bool vector = tensor.rank() == 1 && tensor.dim(0) == batch_size;
  const bool column = tensor.rank() == 2 && tensor.dim(0) == batch_size && tensor.dim(1) == 1;
  if (vector || (column && column_allowed)) return;
  const std::string size = Text(batch_size);
  context.Fail(TF_INVALID_ARGUMENT, std::string("`") + name + "` must have shape [" + size + "]" +
                                        (column_allowed ? " or [" + size + ", 1]" : "") +
                                        ". Received: " + tensor.ShapeText() + ".");
}

void CheckScalar(KernelContext& context, const char* name, const Tensor& tensor) {
  if (tensor.rank() == 0) return;
  context.Fail(TF_INVALID_ARGUMENT,
               std::string("`") + name + "` must be a scalar. Received: " + tensor.ShapeText() + ".");
}

void CheckComputeType(KernelContext& context, const char* names, TF_DataType compute_dtype, TF_DataType dtype) {
  if (compute_dtype == (dtype == TF_DOUBLE ? TF_DOUBLE : TF_FLOAT)) return;
  context.Fail(TF_INVALID_ARGUMENT,
               std::string(names) + " must be float64 exactly when the embeddings are, and float32 otherwise.");
}

double ScalarValue(const Tensor& tensor) {
  return tensor.dtype() == TF_DOUBLE ? *static_cast<const double*>(tensor.data())
                                     : static_cast<double>(*static_cast<const float*>(tensor.data()));
}

bool CheckRank(const InputRank& rank, TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeHandle* shape = TF_NewShapeHandle();
  TF_ShapeInferenceContextGetInput(context, rank.input, shape, status);
  if (TF_GetCode(status) == TF_OK && TF_ShapeInferenceContextRankKnown(context, shape)) {
    const int64_t actual = TF_ShapeInferenceContextRank(context, shape);
    if (actual < rank.min_rank || actual > rank.max_rank) {
      const std::string message = std::string(rank.requirement) + ". Received: rank " + Text(actual) + ".";
      TF_SetStatus(status, TF_INVALID_ARGUMENT, message.c_str());
    }
  }
  TF_DeleteShapeHandle(shape);
  return TF_GetCode(status) == TF_OK;
}

void SetScalarLossShapes(TF_ShapeInferenceContext* context, TF_Status* status) {
  TF_ShapeInferenceContextSetUnknownShape(context, status);
  if (TF_GetCode(status) != TF_OK) return;
  TF_ShapeHandle* scalar = TF_ShapeInferenceContextScalar(context);
  TF_ShapeInferenceContextSetOutput(context, 0, scalar, status);
  TF_DeleteShapeHandle(scalar);
}

}  // namespace fastneg::tf_ops
