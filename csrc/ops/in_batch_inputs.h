// What the ops of the in-batch loss and of the ranks have in common: inputs that say which scores there are.
#ifndef FASTNEG_OPS_IN_BATCH_INPUTS_H_
#define FASTNEG_OPS_IN_BATCH_INPUTS_H_

#include <string>
#include <utility>

#include "core/api.h"
#include "ops/checks.h"
#include "ops/kernel_context.h"

namespace fastneg::ops {

// Tensors of one execution. Optional ones are empty where the caller gave none.
struct InBatchInputs {
  Tensor query, candidate, positives, candidate_ids, candidate_mask, score_mask;

  int64_t batch_size() const { return query.dim(0); }
  int64_t num_candidates() const { return candidate.dim(0); }
  int64_t embedding_dim() const { return query.dim(1); }
};

inline void CheckInBatchShapes(const InBatchInputs& inputs, KernelContext& context) {
  for (const auto& [name, tensor] : {std::pair<const char*, const Tensor*>{"query_embeddings", &inputs.query},
                                     {"candidate_embeddings", &inputs.candidate}}) {
    if (tensor->rank() == 2) continue;
    return context.Refuse(std::string("`") + name + "` must have rank 2. Received: " + tensor->ShapeText() + ".");
  }
  if (inputs.candidate.dim(1) != inputs.embedding_dim()) {
    return context.Refuse("`candidate_embeddings` must have the width of `query_embeddings`, " +
                          Text(inputs.embedding_dim()) + ". Received: " + inputs.candidate.ShapeText() + ".");
  }
  const int64_t b = inputs.batch_size(), c = inputs.num_candidates();
  if (!inputs.positives && c < b) {
    return context.Refuse("`candidate_embeddings` must have at least as many rows as `query_embeddings`, " + Text(b) +
                          ", unless `positives` are given. Received: " + Text(c) + ".");
  }
  if (c == 0 && b > 0) {
    return context.Refuse("`candidate_embeddings` must have at least one row where `query_embeddings` has " + Text(b) +
                          ". Received: 0.");
  }
  CheckPerRow(context, "positives", inputs.positives, b, false);
  CheckPerRow(context, "candidate_ids", inputs.candidate_ids, c, false);
  CheckPerRow(context, "candidate_mask", inputs.candidate_mask, c, false);
  const Tensor& mask = inputs.score_mask;
  if (mask && (mask.rank() != 2 || mask.dim(0) != b || mask.dim(1) != c)) {
    context.Refuse("`score_mask` must have shape [" + Text(b) + ", " + Text(c) + "]. Received: " + mask.ShapeText() +
                   ".");
  }
}

inline void FillInBatchArguments(const InBatchInputs& inputs, bool normalize, InBatchScoresArgs* args) {
  args->batch_size = inputs.batch_size();
  args->num_candidates = inputs.num_candidates();
  args->embedding_dim = inputs.embedding_dim();
  args->dtype = inputs.query.dtype();
  args->queries = inputs.query.data();
  args->candidates = inputs.candidate.data();
  args->query_row_stride = inputs.embedding_dim();
  args->candidate_row_stride = inputs.embedding_dim();
  args->normalize = normalize;
  args->positives = static_cast<const int64_t*>(DataOrNull(inputs.positives));
  args->candidate_ids = static_cast<const int64_t*>(DataOrNull(inputs.candidate_ids));
  args->candidate_mask = static_cast<const uint8_t*>(DataOrNull(inputs.candidate_mask));
  args->score_mask = static_cast<const uint8_t*>(DataOrNull(inputs.score_mask));
}

// Fails for any status but kOk; `index` is what the core found wrong, if it did.
inline void CheckInBatchStatus(KernelContext& context, const char* op, const InBatchScoresArgs& args, Status status,
                               int64_t index) {
  if (status == Status::kIdOutOfRange) {
    context.Refuse("`positives` must be at least 0 and less than the number of candidates, " +
                   Text(args.num_candidates) + ". Received: positives[" + Text(index) +
                   "] = " + Text(args.positives[index]) + ".");
  } else if (status == Status::kInvalidSize) {
    context.Refuse(
        "`query_embeddings` and `candidate_embeddings` must have fewer than 2^31 - 1 rows, and sizes whose products "
        "fit 63 bits. Received: " +
        Text(args.batch_size) + " and " + Text(args.num_candidates) + " rows of " + Text(args.embedding_dim) + ".");
  } else if (status != Status::kOk) {
    context.Fail(ErrorCode::kInternal, std::string("Fastneg>") + op + ": " + CoreStatusText(status, nullptr));
  }
}

}  // namespace fastneg::ops

#endif  // FASTNEG_OPS_IN_BATCH_INPUTS_H_
