// The public face of the fastneg core: every loss, without any framework.
//
// Bindings (TensorFlow, pybind11) include this header and no other. Sizes and strides are counted in
// elements, never bytes. The caller owns every buffer, the workspace included; the core allocates
// nothing, throws nothing, and reports failure through Status.
//
// Determinism: every result depends on the inputs and the instruction set alone. No row's result depends on how work is
// cut into tasks, and sums over rows are formed from blocks of fixed size, in order.
#ifndef FASTNEG_CORE_API_H_
#define FASTNEG_CORE_API_H_

#include <cstddef>
#include <cstdint>

namespace fastneg {

enum class DType : int32_t {
  kBool,
  kInt8,
  kUInt8,
  kInt16,
  kUInt16,
  kInt32,
  kUInt32,
  kInt64,
  kUInt64,
  kFloat16,
  kBFloat16,
  kFloat32,
  kFloat64,
};

// The type that arithmetic, losses and gradients use for embeddings of `dtype`: float64 for float64,
// float32 for everything narrower.
constexpr DType ComputeType(DType dtype) { return dtype == DType::kFloat64 ? DType::kFloat64 : DType::kFloat32; }

enum class Status : int32_t {
  kOk = 0,
  kInvalidSize,        // A size is negative, K >= B, a stride is shorter than its row, or a product overflows.
  kUnsupportedDType,   // Embeddings that are not floating point, or labels of an unknown type.
  kNullPointer,        // A required buffer is missing.
  kShiftIsMultiple,    // A shift is 0 modulo B: the "negative" would be the positive itself.
  kNotAPermutation,    // An entry of `permutations` is outside 0 .. B-1 or repeats one before it.
  kWorkspaceTooSmall,  // workspace_bytes is below what <Loss>WorkspaceBytes asks for.
  kIsaUnavailable,     // FASTNEG_ISA names an instruction set that this build or machine lacks.
  kZeroTemperature,    // PairwiseLogistic's temperature is 0.
  kIdOutOfRange,       // An id or a row index is not in the range that its argument names.
  kNoDevice,           // CUDA only: no driver or no device.
  kDeviceFailure,      // CUDA only: CUDA refused a call.
  kInvalidOption,      // An option is out of its range, or one that another one excludes.
};

// One step of a parallel computation: `task(context, first_index + n)` for n = 0 .. num_tasks - 1, in any order.
struct Phase {
  int64_t num_tasks = 0;
  void (*task)(void* context, int64_t index) = nullptr;
  int64_t first_index = 0;
};

// Runs phases one after the other; the tasks inside a phase may run concurrently. `run` is null for
// "on the calling thread".
struct Executor {
  void* self = nullptr;
  int num_threads = 1;  // How many threads `run` can use: the cut into tasks follows it, the results do not.
  void (*run)(void* self, const Phase* phases, int num_phases, void* context) = nullptr;
};

// Where a CUDA device has parameters that the host does not know, because they are trained or come from other kernels:
// each null, or one value of the compute type, which counts instead of the number in the arguments; that has to be left
// as it is. On the CPU every parameter is a number, and nobody looks here.
struct GatheredDeviceScalars {
  const void* gamma = nullptr;
  const void* margin = nullptr;
  const void* t = nullptr;
  const void* negative_weight = nullptr;
};

// The gathered losses: a support-vector-guided softmax over each row's own item and K items of other rows. With c_0 the
// cosine of user i and item i, and c_k that with the item of row j(i, k):
//
//   p = c_0 - margin
//   s_k = t c_k + t - 1 if p - c_k < 0 else c_k
//   l_0 = gamma p - log q_i,  l_k = gamma s_k - log q_j
//   row loss = logsumexp(l_0 .. l_K) - l_0,  loss = sum_i w_i row_i / #{counted i: w_i != 0}
//
// With the positive out of the softmax, row loss = negative_weight logsumexp(l_1 .. l_K) - l_0, or 0 where no negative
// is left. The refined correction has l_0 = gamma p and l_k = gamma s_k - log(q_j / (1 - q_i)), 1 - q_i at least 1e-9,
// and multiplies the row loss by the constant 1 - exp(l_0) / (exp(l_0) + mean exp(l_k)).
//
// Buffers marked [compute] hold ComputeType(dtype). Gradients are those of `loss` itself (upstream 1).
struct GatheredSoftmaxArgs {
  int64_t batch_size = 0;     // B >= 0.
  int64_t embedding_dim = 0;  // D >= 0.
  int64_t num_negatives = 0;  // K >= 1 unless B = 0.

  DType dtype = DType::kFloat32;   // Of user_emb and item_emb: float16, bfloat16, float32 or float64.
  const void* user_emb = nullptr;  // [B, D], rows user_row_stride apart, each row contiguous.
  const void* item_emb = nullptr;  // [B, D]
  int64_t user_row_stride = 0;
  int64_t item_row_stride = 0;
  bool embed_normed = false;  // Rows are used as they are instead of being L2-normalised.

  DType label_dtype = DType::kFloat32;
  const void* labels = nullptr;   // [B]; rows with label > 0 count. Null: all rows do.
  const void* weights = nullptr;  // [B] [compute], or null for 1 everywhere.
  double gamma = 1.0;
  double margin = 0.0;
  double t = 1.0;
  const void* sampling_probability = nullptr;  // q, [B] [compute], clipped below at 1e-9; null: no correction.
  const int64_t* candidate_ids = nullptr;      // [B]; negatives with the row's own id are left out; null: keep all.
  bool refined = false;                        // Needs probabilities, and the positive out of the softmax.
  bool positive_in_softmax = true;
  double negative_weight = 1.0;  // 1 where the positive is in the softmax.
  GatheredDeviceScalars on_device;

  void* loss = nullptr;  // [compute], one value. Required.
  // Optional results: null means that nobody pays for them. grad_user and grad_item come together.
  void* grad_user = nullptr;     // [B, D] [compute], dense.
  void* grad_item = nullptr;     // [B, D] [compute], dense.
  void* grad_weights = nullptr;  // [B] [compute]: row loss / number of weighted rows; only with `weights`.
  void* grad_scalars = nullptr;  // [3] [compute]: d loss / d gamma, d margin, d t.

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;
  Executor executor;

  // Set on a status that is about one value: its index.
  int64_t* error_index = nullptr;
};

// num_threads, or 1 where handing work to other threads would take longer than it saves. Looks at sizes and requested
// results alone.
int WorthwhileThreads(const GatheredSoftmaxArgs& args, int num_threads);

// softmax_loss_with_negative_mining: j(i, k) = (i - shifts[k]) mod B.
struct RolledSoftmaxArgs : GatheredSoftmaxArgs {  // K < B unless B = 0.
  const int64_t* shifts = nullptr;                // [K], any values, taken modulo B; 0 modulo B is an error.
};

// Bytes of workspace that RolledSoftmax needs for these sizes and requested results. The pointers are
// only compared with null. Returns 0 for sizes that RolledSoftmax refuses.
size_t RolledSoftmaxWorkspaceBytes(const RolledSoftmaxArgs& args);

Status RolledSoftmax(const RolledSoftmaxArgs& args);

// negative_cosine_loss: j(i, k) = permutations[k][i].
struct ShuffledCosineArgs : GatheredSoftmaxArgs {  // B < 2^31 - 1.
  DType permutation_dtype = DType::kInt32;         // Or kInt64.
  const void* permutations = nullptr;              // [K, B], dense; each row has to be a permutation of 0 .. B-1.
};

size_t ShuffledCosineWorkspaceBytes(const ShuffledCosineArgs& args);

Status ShuffledCosine(const ShuffledCosineArgs& args);

// Uniformly distributed permutations of 0 .. size-1, one for each seed; a seed always gives the same one.
struct RandomPermutationsArgs {
  int64_t count = 0;
  int64_t size = 0;                 // Below 2^31.
  const int64_t* seeds = nullptr;   // [count]
  int32_t* permutations = nullptr;  // [count, size]
  Executor executor;
};

Status RandomPermutations(const RandomPermutationsArgs& args);

// As GatheredDeviceScalars.
struct SvDeviceScalars {
  const void* smooth = nullptr;
  const void* margin = nullptr;
  const void* t = nullptr;
  const void* threshold = nullptr;
};

// support_vector_guided_softmax_loss: each row's scores are given.
//
//   p = pos - margin
//   s_k = t neg_k + t - 1 if p - neg_k < threshold else neg_k
//   row loss = logsumexp(smooth p, smooth s_1 .. smooth s_K) - smooth p,  loss = sum_i w_i row_i / #{i: w_i != 0}
//
// Rows of weight 0 take no part. Buffers marked [compute] hold ComputeType(dtype). Gradients are those of `loss` itself
// (upstream 1).
struct SvSoftmaxArgs {
  int64_t num_rows = 0;       // P >= 0.
  int64_t num_negatives = 0;  // K >= 0; a row without negatives has loss 0.

  DType dtype = DType::kFloat32;     // Of the scores: float16, bfloat16, float32 or float64.
  const void* pos_score = nullptr;   // [P]
  const void* neg_scores = nullptr;  // [P, K], dense.
  const void* weights = nullptr;     // [P] [compute], or null for 1 everywhere.
  double margin = 0.0;
  double t = 1.0;
  double smooth = 1.0;
  double threshold = 0.0;
  SvDeviceScalars on_device;

  void* loss = nullptr;  // [compute], one value. Required.
  // Optional results: null means that nobody pays for them. grad_pos and grad_neg come together.
  bool narrow_grads = false;     // Whether grad_pos and grad_neg are rounded to dtype, or [compute].
  void* grad_pos = nullptr;      // [P]
  void* grad_neg = nullptr;      // [P, K], dense. May be the buffer of neg_scores itself if both types agree.
  void* grad_weights = nullptr;  // [P] [compute]: row loss / number of weighted rows; only with `weights`.
  void* grad_scalars = nullptr;  // [3] [compute]: d loss / d smooth, d margin, d t; only with grad_neg.

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;
  Executor executor;
};

// As for RolledSoftmax.
size_t SvSoftmaxWorkspaceBytes(const SvSoftmaxArgs& args);
Status SvSoftmax(const SvSoftmaxArgs& args);
int WorthwhileThreads(const SvSoftmaxArgs& args, int num_threads);

// pairwise_loss: every row against every row of its session with a smaller label.
//
//   loss = sum_i w_i S_i / #{(i, j) : w_i != 0},  S_i = sum_j softplus(margin - (x_i - x_j) / temperature)
//
// over the pairs (i, j) with labels[i] > labels[j] and session_ids[i] = session_ids[j]. A label that is NaN makes no
// pair. Without a pair the loss is 0. Buffers marked [compute] hold ComputeType(dtype); gradients are those of `loss`.
//
// Precision: softplus and sigmoid of each pair have a relative error of at most 1e-12 (3e-14 where dtype is float64),
// or, in ranges of so few rows that they are paired one by one, of 4e-7 (1e-15); they are added up in float64. Values
// below e^-87 may count as 0. No sum is formed as a difference of larger ones.
struct PairwiseLogisticArgs {
  int64_t batch_size = 0;  // B, 0 <= B < 2^31.

  DType dtype = DType::kFloat32;  // Of logits: float16, bfloat16, float32 or float64.
  const void* logits = nullptr;   // x, [B]
  DType label_dtype = DType::kFloat32;
  const void* labels = nullptr;          // [B], any type.
  const int64_t* session_ids = nullptr;  // [B], in any order; null: one session.
  const void* weights = nullptr;         // w, [B] [compute], or null for 1 everywhere.
  double margin = 0.0;
  double temperature = 1.0;  // Not 0.

  void* loss = nullptr;  // [compute], one value. Required.
  // Optional results: null means that nobody pays for them.
  void* grad_logits = nullptr;   // [B] [compute]
  void* grad_weights = nullptr;  // [B] [compute]: S_i / number of pairs; only with `weights`.
  void* grad_scalars = nullptr;  // [2] [compute]: d loss / d margin, d temperature.

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;
  Executor executor;
};

// Bytes of workspace that PairwiseLogistic needs: some 140 for each row, and 1.1 MB. The pointers are only compared
// with null. Returns 0 for sizes that PairwiseLogistic refuses.
size_t PairwiseLogisticWorkspaceBytes(const PairwiseLogisticArgs& args);

Status PairwiseLogistic(const PairwiseLogisticArgs& args);

// num_threads, or 1 where handing work to other threads would take longer than it saves.
int WorthwhileThreads(const PairwiseLogisticArgs& args, int num_threads);

// out[i] = dtype(scale * unit_grad[i]): turns gradients of a scalar loss for upstream 1 into those for
// upstream `scale`. `unit_grad` is of ComputeType(dtype); `out` may be the same buffer when both types agree.
struct ScaleGradArgs {
  int64_t size = 0;
  DType dtype = DType::kFloat32;  // Of `out`.
  const void* unit_grad = nullptr;
  void* out = nullptr;
  double scale = 1.0;
  Executor executor;
};

Status ScaleGrad(const ScaleGradArgs& args);

// The distinct table rows that labels and sampled ids name, so that each is gathered, and gets a gradient, once.
struct SampledRowsArgs {
  int64_t num_labels = 0;            // Labels of all rows of the batch together.
  int64_t num_sampled = 0;           // num_labels + num_sampled < 2^31.
  int64_t num_classes = 0;           // Ids are 0 .. num_classes - 1.
  const int64_t* labels = nullptr;   // [num_labels]
  const int64_t* sampled = nullptr;  // [num_sampled]

  // Distinct ids in the order in which they first occur, sampled ids before labels. Room for all of them; their number
  // is stored in num_rows.
  int64_t* ids = nullptr;
  int32_t* label_rows = nullptr;    // [num_labels] where in `ids` each label is.
  int32_t* sampled_rows = nullptr;  // [num_sampled]
  int64_t* num_rows = nullptr;

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;

  // Set on Status::kIdOutOfRange: the first offending index into labels followed by sampled.
  int64_t* error_index = nullptr;
};

size_t SampledRowsWorkspaceBytes(const SampledRowsArgs& args);

Status SampledRows(const SampledRowsArgs& args);

// Rows of a table, copied one after the other.
struct GatherRowsArgs {
  int64_t num_ids = 0;
  int64_t table_rows = 0;
  int64_t row_bytes = 0;
  const void* table = nullptr;   // [table_rows] rows.
  const int64_t* ids = nullptr;  // [num_ids], each in 0 .. table_rows - 1.
  void* rows = nullptr;          // [num_ids] rows.
  Executor executor;

  // Set on Status::kIdOutOfRange: the first offending index into ids.
  int64_t* error_index = nullptr;
};

Status GatherRows(const GatherRowsArgs& args);

// num_threads, or 1 where handing work to other threads would take longer than it saves.
int WorthwhileThreads(const GatherRowsArgs& args, int num_threads);

// sampled_softmax_loss: every row's candidates are its own labels and S sampled ones, the same for all rows.
//
//   l_it = <x_i, w_label(i,t)> + b_label(i,t) - log c_it            (positives, t = 1 .. num_true)
//   m_is = <x_i, w_s> + b_s - log c_s, left out where s is an accidental hit of row i
//   loss_i = log(sum_t exp l_it + sum_s exp m_is) - mean_t l_it
//
// Table rows are given by their index into `rows`, which holds each distinct one once (SampledRows). A sampled
// candidate is an accidental hit of a row if it is the last one with the table row of one of the row's labels: where an
// id was sampled twice only the last one counts as a hit, as in tf.nn.compute_accidental_hits.
//
// Buffers marked [compute] hold ComputeType(dtype). Gradients are those of sum_i row_weights_i loss_i.
struct SampledSoftmaxArgs {
  int64_t batch_size = 0;     // B >= 0.
  int64_t embedding_dim = 0;  // D >= 0.
  int64_t num_true = 0;       // >= 1.
  int64_t num_sampled = 0;    // S >= 1. B * num_true + S < 2^31.
  int64_t num_rows = 0;       // U

  DType dtype = DType::kFloat32;  // Of inputs and rows: float16, bfloat16, float32 or float64.
  const void* inputs = nullptr;   // [B, D], rows input_row_stride apart, each row contiguous.
  const void* rows = nullptr;     // [U, D]
  int64_t input_row_stride = 0;
  int64_t row_stride = 0;
  const void* biases = nullptr;                  // [U] [compute], or null for none.
  const int32_t* label_rows = nullptr;           // [B, num_true], each in 0 .. U - 1.
  const int32_t* sampled_rows = nullptr;         // [S], likewise.
  const void* true_expected_count = nullptr;     // c_it, [B, num_true] [compute]
  const void* sampled_expected_count = nullptr;  // c_s, [S] [compute]
  bool remove_accidental_hits = true;
  // [B] [compute]: for the gradients alone; null for 1. A row of weight 0 adds nothing to them, whatever it holds.
  const void* row_weights = nullptr;

  void* loss = nullptr;  // [B] [compute]; null: not wanted.
  // Null: not wanted, and nobody pays for it.
  void* grad_inputs = nullptr;  // [B, D] [compute], dense.
  void* grad_rows = nullptr;    // [U, D] [compute], dense.
  void* grad_biases = nullptr;  // [U] [compute]; only with `biases` and grad_rows.

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;
  Executor executor;

  // Set on Status::kIdOutOfRange: the first offending index into label_rows followed by sampled_rows.
  int64_t* error_index = nullptr;
};

// Bytes of workspace that SampledSoftmax needs for these sizes, requested results and threads. The pointers are only
// compared with null. Returns 0 for sizes that SampledSoftmax refuses.
size_t SampledSoftmaxWorkspaceBytes(const SampledSoftmaxArgs& args);

Status SampledSoftmax(const SampledSoftmaxArgs& args);

// num_threads, or 1 where handing work to other threads would take longer than it saves. Looks at sizes and requested
// results alone.
int WorthwhileThreads(const SampledSoftmaxArgs& args, int num_threads);

enum class Reduction : int32_t { kMean, kSum, kNone };

// What in_batch_softmax_loss and positive_ranks share: every query scores every candidate, <q_i, c_j>, or the cosine.
// Row i's positive is candidate positives[i], or i. Its negatives are the candidates j that are not its positive, with
// candidate_mask[j], score_mask[i][j], and an id other than the positive's.
struct InBatchScoresArgs {
  int64_t batch_size = 0;      // B, 0 <= B < 2^31.
  int64_t num_candidates = 0;  // C, 0 < C < 2^31 unless B = 0; B <= C where positives are null.
  int64_t embedding_dim = 0;   // D >= 0.

  DType dtype = DType::kFloat32;     // Of queries and candidates: float16, bfloat16, float32 or float64.
  const void* queries = nullptr;     // [B, D], rows query_row_stride apart, each row contiguous.
  const void* candidates = nullptr;  // [C, D], likewise.
  int64_t query_row_stride = 0;
  int64_t candidate_row_stride = 0;
  bool normalize = false;                   // Rows are L2-normalised first.
  const int64_t* positives = nullptr;       // [B], each in 0 .. C-1; null: 0 .. B-1.
  const int64_t* candidate_ids = nullptr;   // [C] or null.
  const uint8_t* candidate_mask = nullptr;  // [C], 0 for false, or null.
  const uint8_t* score_mask = nullptr;      // [B, C], dense, or null.

  void* workspace = nullptr;  // Aligned to 64 bytes.
  size_t workspace_bytes = 0;
  Executor executor;

  // Set on Status::kIdOutOfRange: the first offending index into positives.
  int64_t* error_index = nullptr;
};

// in_batch_softmax_loss. With s_ij the scores and p = p(i):
//
//   z_ip = (s_ip - margin) / temperature,  l_ip = z_ip - log q_p
//   z_ij = (s_ip - margin - s_ij < 0 ? t s_ij + t - 1 : s_ij) / temperature,  l_ij = z_ij - log q_j
//   L_i = logsumexp l_ij - (1 - e) l_ip - e mean l_ij over the positive and the negatives that stay, or
//   L_i = negative_weight logsumexp l_ij - l_ip over the negatives that stay (0 if there are none).
//
// The refined correction has l_ip = z_ip and l_ij = z_ij - log(q_j / (1 - q_p)), and multiplies L_i by the constant
// 1 - P_i. `bidirectional` takes the mean of L_i and of the same function of the z_ji, j = 0 .. B-1.
//
// Buffers marked [compute] hold ComputeType(dtype). Gradients are those of `loss`, or with kNone of its sum.
struct InBatchSoftmaxArgs : InBatchScoresArgs {
  const void* weights = nullptr;  // w, [B] [compute], or null for 1 everywhere.
  double temperature = 1.0;       // Positive.
  double margin = 0.0;
  double t = 1.0;
  const void* sampling_probability = nullptr;  // q, [C] [compute], clipped to [1e-9, 1]; null: no correction.
  int64_t num_hard_negatives = 0;              // Those with the largest logits stay, of equal ones the first; 0: all.
  double label_smoothing = 0.0;                // e, 0 <= e < 1; 0 unless positive_in_softmax.
  bool refined = false;                        // Needs probabilities, and the positive out of the softmax.
  bool positive_in_softmax = true;
  double negative_weight = 1.0;  // 1 where the positive is in the softmax.
  bool bidirectional = false;    // Not with positives, num_hard_negatives or the refined correction.
  bool t_is_trained = true;      // Else grad_scalars has 0 for t = 1, and nothing looks for hard negatives.
  // Scores that `bidirectional` keeps from the sums to the gradients, which is faster. Where all together take more,
  // they are computed again: memory has to stay far below that of all scores.
  int64_t kept_scores_bytes = 80 << 20;
  Reduction reduction = Reduction::kMean;

  void* loss = nullptr;  // [compute], one value, or [B] with kNone. Required.
  // Optional results: null means that nobody pays for them. grad_queries and grad_candidates come together.
  void* grad_queries = nullptr;     // [B, D] [compute], dense.
  void* grad_candidates = nullptr;  // [C, D] [compute], dense.
  void* grad_weights = nullptr;     // [B] [compute]; only with `weights`.
  void* grad_scalars = nullptr;     // [3] [compute]: by temperature, margin, t; only with grad_queries.
};

// Bytes of workspace that InBatchSoftmax needs for these sizes, options, requested results and threads. Pointers are
// only compared with null or each other. Returns 0 for what InBatchSoftmax refuses.
size_t InBatchSoftmaxWorkspaceBytes(const InBatchSoftmaxArgs& args);

Status InBatchSoftmax(const InBatchSoftmaxArgs& args);

// num_threads, or 1 where handing work to other threads would take longer than it saves. Looks at sizes and requested
// results alone.
int WorthwhileThreads(const InBatchSoftmaxArgs& args, int num_threads);

// positive_ranks: how many negatives each row's positive does not beat. It beats those with a smaller score, and those
// behind it with an equal one; NaN beats nothing and is not beaten.
struct PositiveRanksArgs : InBatchScoresArgs {
  int32_t* ranks = nullptr;  // [B]
};

// As for InBatchSoftmax.
size_t PositiveRanksWorkspaceBytes(const PositiveRanksArgs& args);
Status PositiveRanks(const PositiveRanksArgs& args);
int WorthwhileThreads(const PositiveRanksArgs& args, int num_threads);

// Instruction sets this build holds kernels for and this machine can run, null-terminated; the last one is what it uses
// unless told otherwise: "baseline", "x86-64-v3", "x86-64-v4", and the latter with products of bfloat16,
// "x86-64-v4-bf16" and "x86-64-v4-amx".
const char* const* AvailableIsas();

// The instruction set in use: the last of those, or the one that FASTNEG_ISA names.
const char* ActiveIsa();

// Chooses the instruction set for the calls that follow; false (and no change) if it is not available.
bool SetIsa(const char* name);

// If FASTNEG_ISA names something that is not available, that value; else null. Nothing is chosen silently:
// bindings refuse to run and name it.
const char* UnavailableRequestedIsa();

// An executor over fastneg's own persistent threads. `num_threads` 0: FASTNEG_NUM_THREADS if set, else the
// processors this process may use (affinity and cgroup quota). The caller's thread always works too.
Executor PoolExecutor(int num_threads);

// The thread count that PoolExecutor(0) uses, and where it comes from.
struct ThreadDefault {
  int count = 1;
  bool requested = false;   // By FASTNEG_NUM_THREADS; else found out.
  const char* reason = "";  // "FASTNEG_NUM_THREADS", "2 processors in the affinity mask", ...
};
ThreadDefault DefaultNumThreads();

}  // namespace fastneg

#endif  // FASTNEG_CORE_API_H_
