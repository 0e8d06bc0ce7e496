// The passes of in_batch_softmax_loss and positive_ranks.
#include "core/cpu/kernel_table.h"
#include "core/cpu/shared/in_batch_candidates.h"
#include "core/cpu/shared/in_batch_rows.h"
#include "core/cpu/shared/in_batch_two_ways.h"
#include "core/cpu/shared/rank_block.h"

namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE {

extern const InBatchKernels kInBatchSoftmaxKernels;
const InBatchKernels kInBatchSoftmaxKernels = {
    {kWidthOfPanel<float>, kWidthOfPanel<double>},
    {PackInBatch<float>, PackInBatch<double>},
    {ScoreInBatchBlock<InBatchBlock<float>>, ScoreInBatchBlock<InBatchBlock<double>>},
    {InBatchCandidateGrads<float>, InBatchCandidateGrads<double>},
    {FinishInBatchCandidates<float>, FinishInBatchCandidates<double>},
    {OwnLogits<float>, OwnLogits<double>},
    {SumInBatchBlock<float>, SumInBatchBlock<double>},
    {MergeColumns<float>, MergeColumns<double>},
    {FinishColumns<float>, FinishColumns<double>},
    {MaximaOfColumns<float>, MaximaOfColumns<double>},
    {MergeMaxima<float>, MergeMaxima<double>},
    {GradInBatchBlock<float>, GradInBatchBlock<double>},
    {RankBlock<float>, RankBlock<double>},
    nullptr,
};

}  // namespace fastneg::cpu::FASTNEG_ISA_NAMESPACE
