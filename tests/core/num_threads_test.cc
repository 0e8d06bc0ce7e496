// The default number of threads: environment, affinity, and control groups of both versions.
#include "core/cpu/runtime/num_threads.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <cstring>
#include <string>

#include "tests/core/check.h"

namespace fastneg::cpu {
namespace {

bool Contains(const char* text, const char* part) { return std::strstr(text, part) != nullptr; }

void TestChooseThreads() {
  FASTNEG_CHECK(ChooseThreads(nullptr, 8, 0).count == 8);
  FASTNEG_CHECK(Contains(ChooseThreads(nullptr, 8, 0).reason, "8 processors in the affinity mask"));
  FASTNEG_CHECK(ChooseThreads("", 8, 0).count == 8);
  FASTNEG_CHECK(ChooseThreads(nullptr, 8, 1.5).count == 2);
  FASTNEG_CHECK(Contains(ChooseThreads(nullptr, 8, 1.5).reason, "CPU quota of 1.50"));
  FASTNEG_CHECK(ChooseThreads(nullptr, 2, 16).count == 2);
  FASTNEG_CHECK(ChooseThreads(nullptr, 0, 0).count == 1);
  FASTNEG_CHECK(ChooseThreads(nullptr, 100000, 0).count == kMaxThreads);

  const ThreadChoice asked = ChooseThreads("3", 8, 1.5);
  FASTNEG_CHECK(asked.count == 3 && asked.from_environment && Contains(asked.reason, "FASTNEG_NUM_THREADS"));
  FASTNEG_CHECK(ChooseThreads("1000000", 8, 0).count == kMaxThreads);
  for (const char* bad : {"0", "-2", "two", "2x", "2.5", " ", "99999999999999999999"}) {
    const ThreadChoice choice = ChooseThreads(bad, 8, 0);
    FASTNEG_CHECK(choice.count == 8 && !choice.from_environment);
    FASTNEG_CHECK(Contains(choice.reason, "must be a positive integer") && Contains(choice.reason, bad));
  }
  FASTNEG_CHECK(AffinityProcessors() >= 1);
  FASTNEG_CHECK(DefaultThreads().count >= 1 && DefaultThreads().reason[0] != '\0');
}

// A directory tree that stands for /sys/fs/cgroup.
class FakeCgroups {
 public:
  FakeCgroups() {
    char name[] = P_tmpdir "/fastneg_cgroup_XXXXXX";
    FASTNEG_CHECK(mkdtemp(name) != nullptr);
    root_ = name;
  }
  ~FakeCgroups() { FASTNEG_CHECK(std::system(("rm -r '" + root_ + "'").c_str()) == 0); }

  void Directory(const char* path) { FASTNEG_CHECK(mkdir((root_ + path).c_str(), 0700) == 0); }

  void File(const char* path, const char* text) {
    std::FILE* file = std::fopen((root_ + path).c_str(), "w");
    FASTNEG_CHECK(file != nullptr && std::fputs(text, file) >= 0 && std::fclose(file) == 0);
  }

  double Quota(const char* groups) {
    File("/groups", groups);
    return CgroupQuota((root_ + "/groups").c_str(), root_.c_str());
  }

 private:
  std::string root_;
};

void TestVersion2() {
  FakeCgroups cgroups;
  cgroups.Directory("/a");
  cgroups.Directory("/a/b");
  FASTNEG_CHECK(cgroups.Quota("0::/a/b\n") == 0);
  cgroups.File("/a/b/cpu.max", "max 100000\n");
  FASTNEG_CHECK(cgroups.Quota("0::/a/b\n") == 0);
  cgroups.File("/a/cpu.max", "150000 100000\n");
  FASTNEG_CHECK(cgroups.Quota("0::/a/b\n") == 1.5);
  cgroups.File("/a/b/cpu.max", "300000 100000\n");
  FASTNEG_CHECK(cgroups.Quota("0::/a/b\n") == 1.5);  // The parent's limit is the tighter one.
  cgroups.File("/cpu.max", "50000 100000\n");        // As a container with its own namespace sees its limit.
  FASTNEG_CHECK(cgroups.Quota("0::/\n") == 0.5);
  FASTNEG_CHECK(cgroups.Quota("0::/unknown/here\n") == 0.5);
}

void TestVersion1() {
  FakeCgroups cgroups;
  cgroups.Directory("/cpu");
  cgroups.Directory("/cpu/job");
  cgroups.File("/cpu/cpu.cfs_quota_us", "-1\n");
  cgroups.File("/cpu/cpu.cfs_period_us", "100000\n");
  FASTNEG_CHECK(cgroups.Quota("5:memory:/job\n4:cpu,cpuacct:/job\n") == 0);
  cgroups.File("/cpu/job/cpu.cfs_quota_us", "250000\n");
  cgroups.File("/cpu/job/cpu.cfs_period_us", "100000\n");
  FASTNEG_CHECK(cgroups.Quota("5:memory:/job\n4:cpu,cpuacct:/job\n") == 2.5);
  FASTNEG_CHECK(cgroups.Quota("5:cpuset:/job\n") == 0);
}

void TestNonsense() {
  FakeCgroups cgroups;
  cgroups.File("/cpu.max", "what is this\n");
  FASTNEG_CHECK(cgroups.Quota("0::/\n") == 0);
  FASTNEG_CHECK(cgroups.Quota("nonsense\n::\n\n") == 0);
  FASTNEG_CHECK(CgroupQuota("/nonexistent", "/nonexistent") == 0);
}

}  // namespace
}  // namespace fastneg::cpu

int main() {
  using namespace fastneg::cpu;
  TestChooseThreads();
  TestVersion2();
  TestVersion1();
  TestNonsense();
}
