#include "core/cpu/runtime/num_threads.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif

namespace fastneg::cpu {
namespace {

bool ReadFirstLine(const std::string& path, std::string* line) {
  std::FILE* file = std::fopen(path.c_str(), "re");
  if (file == nullptr) return false;
  char buffer[256];
  const bool ok = std::fgets(buffer, sizeof(buffer), file) != nullptr;
  std::fclose(file);
  if (ok) *line = buffer;
  return ok;
}

// Processors granted to the group in `directory`, 0 for no limit.
double QuotaOfDirectory(const std::string& directory, bool version2) {
  std::string line;
  double quota = 0;
  double period = 0;
  if (version2) {
    // "max 100000" or "150000 100000".
    if (!ReadFirstLine(directory + "/cpu.max", &line)) return 0;
    if (std::sscanf(line.c_str(), "%lf %lf", &quota, &period) != 2) return 0;
  } else {
    if (!ReadFirstLine(directory + "/cpu.cfs_quota_us", &line)) return 0;
    quota = std::atof(line.c_str());  // -1 for no limit.
    if (!ReadFirstLine(directory + "/cpu.cfs_period_us", &line)) return 0;
    period = std::atof(line.c_str());
  }
  return quota > 0 && period > 0 ? quota / period : 0;
}

// Whether the comma-separated `list` holds "cpu".
bool HasCpuController(const std::string& list) { return ("," + list + ",").find(",cpu,") != std::string::npos; }

// The tightest quota of `group` and its parents. Inside a container the file may name the group as the host
// sees it, which does not exist here; its parents up to the mount itself are looked at in any case.
double QuotaOfGroup(const std::string& mount, std::string group, bool version2) {
  double tightest = 0;
  for (;;) {
    const double quota = QuotaOfDirectory(mount + group, version2);
    if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
    const size_t slash = group.rfind('/');
    if (slash == std::string::npos) return tightest;
    group.resize(slash);
  }
}

}  // namespace

int AffinityProcessors() {
#if defined(__linux__)
  // The kernel refuses a mask smaller than its own, so grow it until it fits.
  for (int processors = 1024; processors <= 1 << 20; processors *= 4) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(processors));
    if (set == nullptr) break;
    const size_t size = CPU_ALLOC_SIZE(static_cast<size_t>(processors));
    const bool ok = sched_getaffinity(0, size, set) == 0;
    const bool too_small = !ok && errno == EINVAL;
    const int count = ok ? CPU_COUNT_S(size, set) : 0;
    CPU_FREE(set);
    if (count > 0) return count;
    if (!too_small) break;
  }
#endif
  return static_cast<int>(std::max(sysconf(_SC_NPROCESSORS_ONLN), 1L));
}

double CgroupQuota(const char* proc_cgroup, const char* mount) {
  std::FILE* file = std::fopen(proc_cgroup, "re");
  if (file == nullptr) return 0;
  double tightest = 0;
  char buffer[4352];
  while (std::fgets(buffer, sizeof(buffer), file) != nullptr) {
    // "hierarchy:controllers:group"; version 2 has hierarchy 0 and no controllers.
    std::string line(buffer);
    while (!line.empty() && (line.back() == '\n' || line.back() == '/')) line.pop_back();
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    double quota = 0;
    if (controllers.empty()) {
      quota = QuotaOfGroup(mount, group, true);
    } else if (HasCpuController(controllers)) {
      quota = QuotaOfGroup(std::string(mount) + "/cpu", group, false);
      if (quota == 0) quota = QuotaOfGroup(std::string(mount) + "/" + controllers, group, false);
    }
    if (quota > 0 && (tightest == 0 || quota < tightest)) tightest = quota;
  }
  std::fclose(file);
  return tightest;
}

ThreadChoice ChooseThreads(const char* requested, int processors, double quota) {
  ThreadChoice choice;
  const bool asked = requested != nullptr && requested[0] != '\0';
  if (asked) {
    char* end = nullptr;
    errno = 0;
    const long value = std::strtol(requested, &end, 10);
    if (end != requested && *end == '\0' && errno == 0 && value >= 1) {
      choice.count = static_cast<int>(std::min<long>(value, kMaxThreads));
      choice.from_environment = true;
      std::snprintf(choice.reason, sizeof(choice.reason), "FASTNEG_NUM_THREADS%s",
                    value > kMaxThreads ? ", cut to the most that fastneg uses" : "");
      return choice;
    }
  }
  choice.count = std::clamp(processors, 1, kMaxThreads);
  const bool limited = quota > 0 && std::ceil(quota) < choice.count;
  if (limited) choice.count = static_cast<int>(std::ceil(quota));
  char limit[64];
  if (limited) {
    std::snprintf(limit, sizeof(limit), "CPU quota of %.2f processors", quota);
  } else {
    std::snprintf(limit, sizeof(limit), "%d processor%s in the affinity mask", processors, processors == 1 ? "" : "s");
  }
  if (asked) {
    std::snprintf(choice.reason, sizeof(choice.reason),
                  "%s; FASTNEG_NUM_THREADS is ignored: it must be a positive integer. Received: \"%.32s\"", limit,
                  requested);
  } else {
    std::snprintf(choice.reason, sizeof(choice.reason), "%s", limit);
  }
  return choice;
}

const ThreadChoice& DefaultThreads() {
  static const ThreadChoice choice = ChooseThreads(std::getenv("FASTNEG_NUM_THREADS"), AffinityProcessors(),
                                                   CgroupQuota("/proc/self/cgroup", "/sys/fs/cgroup"));
  return choice;
}

}  // namespace fastneg::cpu
