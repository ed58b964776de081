import { expect, test } from "bun:test";
import { whyNoNamespaces } from "../../src/sandbox/kernel.ts";

const NOTHING = "CapEff:\t0000000000000000\nSeccomp:\t0\n";
const DOCKER_ROOT = "CapEff:\t00000000a80425fb\nSeccomp:\t2\n";
const ROOT = "CapEff:\t000001ffffffffff\nSeccomp:\t0\n";

test.each([
  [
    "Docker's default",
    { "/proc/self/status": DOCKER_ROOT, "/.dockerenv": "" },
    true,
    "Docker takes them away",
    "docker run --cap-add SYS_ADMIN",
  ],
  [
    "a user in Podman",
    { "/proc/self/status": NOTHING, "/run/.containerenv": "" },
    false,
    "Podman takes them away",
    "podman run",
  ],
  [
    "a pod",
    { "/proc/self/status": DOCKER_ROOT, "/proc/1/cgroup": "0::/kubepods/besteffort/pod1" },
    true,
    "a container takes them away",
    "start the container",
  ],
  [
    "Ubuntu 24.04",
    { "/proc/self/status": NOTHING, "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": "1" },
    false,
    "AppArmor",
    "sudo sysctl kernel.apparmor",
  ],
  [
    "an old Debian",
    { "/proc/self/status": NOTHING, "/proc/sys/kernel/unprivileged_userns_clone": "0" },
    false,
    "unprivileged_userns_clone is 0",
    "sudo sysctl kernel.unprivileged",
  ],
  [
    "none allowed",
    { "/proc/self/status": NOTHING, "/proc/sys/user/max_user_namespaces": "0" },
    false,
    "max_user_namespaces is 0",
    "sudo sysctl user.",
  ],
  [
    "another sandbox",
    { "/proc/self/status": ROOT.replace("Seccomp:\t0", "Seccomp:\t2") },
    true,
    "a seccomp filter",
    "outside",
  ],
  ["a root without", { "/proc/self/status": NOTHING }, true, "no CAP_SYS_ADMIN", "capability"],
] as const)("%s", (_what, files, isRoot, reason, remedy) => {
  const why = whyNoNamespaces((path) => (files as Record<string, string>)[path], isRoot);
  expect(why?.reason).toContain(reason);
  expect(why?.remedy).toContain(remedy);
});

test("what is not known is not guessed", () => {
  expect(whyNoNamespaces((path) => ({ "/proc/self/status": ROOT })[path], true)).toBeUndefined();
});
