//! How much memory the system has for this process and for what it reads and writes.

use std::fs;
use std::path::Path;

/// Bytes that programs and cached files of this process can have: what the system has available, or the
/// limit of the strictest control group it is in. `None` where the system does not say.
pub(super) fn available() -> Option<u64> {
    let system =
        fs::read_to_string("/proc/meminfo").ok().and_then(|text| bytes_of(&text, "MemAvailable:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    system.into_iter().chain(group_limits(&groups, Path::new("/sys/fs/cgroup"))).min()
}

/// Bytes that the line `name` of a file under `/proc` gives in kB.
pub(crate) fn bytes_of(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|l| l.strip_prefix(name))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Limits of the memory groups named in `/proc/self/cgroup`, and of all groups around them: version 1
/// has a tree for each resource, version 2 one for all.
fn group_limits(groups: &str, root: &Path) -> Vec<u64> {
    let mut limits = Vec::new();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
        let (tree, file) = if controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|c| c == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            continue;
        };
        // Seen from inside a container, the outer part of the path is not there.
        for inner in Path::new(group.trim_start_matches('/')).ancestors() {
            let text = fs::read_to_string(tree.join(inner).join(file)).unwrap_or_default();
            limits.extend(text.trim().parse::<u64>().ok());
        }
    }
    limits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_strictest_group_counts_in_both_versions() {
        let text = "MemFree: 1 kB\nMemAvailable:   2048 kB\n";
        assert_eq!(bytes_of(text, "MemAvailable:"), Some(2 << 20));
        let root = tempfile::tempdir().unwrap();
        let put = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("memory/memory.limit_in_bytes", "9000\n");
        put("memory/a/memory.limit_in_bytes", "700\n");
        put("memory/a/b/memory.limit_in_bytes", "800\n");
        put("slice/memory.max", "600\n");
        put("slice/unit/memory.max", "max\n");
        let limits = |groups| {
            let mut limits = group_limits(groups, root.path());
            limits.sort_unstable();
            limits
        };
        assert_eq!(limits("4:memory:/a/b\n3:cpu:/a\n"), [700, 800, 9000]);
        assert_eq!(limits("4:cpu,memory:/elsewhere\n"), [9000]);
        assert_eq!(limits("0::/slice/unit\n"), [600]);
        assert!(limits("nonsense\n").is_empty());
    }
}
