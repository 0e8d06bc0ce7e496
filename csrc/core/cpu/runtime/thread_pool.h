// The persistent threads behind PoolExecutor() of core/api.h.
//
// A call publishes its phases as one job and starts working on it at once; sleeping workers are woken and
// take part as they arrive. All threads of a job claim tasks from one counter that runs over the tasks of
// all phases, and a claimed task waits until every task of the earlier phases has finished. So nobody ever
// waits for a worker that has not claimed anything yet: a late worker only means more work for the others.
//
// Workers sleep in the kernel between jobs. They spin only inside a job, between two of its phases.
#ifndef FASTNEG_CORE_CPU_RUNTIME_THREAD_POOL_H_
#define FASTNEG_CORE_CPU_RUNTIME_THREAD_POOL_H_

#include "core/api.h"

namespace fastneg::cpu {

// Runs `phases` in order on at most `num_threads` threads, the calling one included. Memory written by the
// tasks of a phase is visible to the tasks of the next phase, and after the return to the caller. May be
// called by several threads at once, and from inside a task. Never fails: where threads cannot be had, the
// caller does all the work.
void RunPhases(int num_threads, const Phase* phases, int num_phases, void* context);

// Worker threads that exist now in this process (0 again in a child after fork).
int NumWorkers();

}  // namespace fastneg::cpu

#endif  // FASTNEG_CORE_CPU_RUNTIME_THREAD_POOL_H_
