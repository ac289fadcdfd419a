//! What is left in the kernel when a process with probes is killed, and that others' probes do not notice.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::Child;
use std::time::Duration;

use wayspan_proxy::clock::MonoNs;
use wayspan_proxy::observer::{Missing, SocketObserver};

use super::{HOLD, accept, assert_order, child, connect, eventually, load, watched};

/// What a process holds in the kernel, by the kernel's ids.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Held {
    programs: Vec<u32>,
    maps: Vec<u32>,
    links: Vec<u32>,
}

impl Held {
    /// As /proc shows it.
    fn by(process: u32) -> Self {
        let files = std::fs::read_dir(format!("/proc/{process}/fdinfo")).unwrap();
        let texts: Vec<String> = files.filter_map(|file| std::fs::read_to_string(file.unwrap().path()).ok()).collect();
        let ids = |key: &str| {
            let id = |text: &String| text.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok());
            let mut ids: Vec<u32> = texts.iter().filter_map(id).collect();
            ids.sort_unstable();
            ids.dedup();
            ids
        };
        Self { programs: ids("prog_id:"), maps: ids("map_id:"), links: ids("link_id:") }
    }

    /// Those of them that the kernel has.
    fn in_kernel(&self) -> Self {
        let among = |ids: &[u32], known: Vec<u32>| ids.iter().copied().filter(|id| known.contains(id)).collect();
        let programs = aya::programs::loaded_programs().filter_map(Result::ok).map(|program| program.id());
        let maps = aya::maps::loaded_maps().filter_map(Result::ok).map(|map| map.id());
        let links = aya::programs::loaded_links().filter_map(Result::ok).map(|link| link.id());
        Self {
            programs: among(&self.programs, programs.collect()),
            maps: among(&self.maps, maps.collect()),
            links: among(&self.links, links.collect()),
        }
    }

    fn is_empty(&self) -> bool {
        self.programs.is_empty() && self.maps.is_empty() && self.links.is_empty()
    }
}

/// A process that holds loaded probes, all sets.
fn holder() -> (Child, Held) {
    let mut child = child(&[HOLD]);
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "ready");
    let held = Held::by(child.id());
    // How many programs depends on the kernel.
    assert!(held.programs.len() >= 3 && held.maps.len() >= 8 && held.links.len() >= 3, "{held:?}");
    assert_eq!(held.in_kernel(), held);
    (child, held)
}

pub(crate) fn nothing_stays_in_the_kernel_after_kill_9_and_the_neighbours_go_on() {
    // Three processes side by side: this one, and two of which one is killed.
    let probes = load(8, Duration::ZERO);
    let observer = probes.observer();
    let ((mut killed, held), (mut other, others)) = (holder(), holder());
    for (one, two) in [(&held.programs, &others.programs), (&held.maps, &others.maps), (&held.links, &others.links)] {
        assert!(one.iter().all(|id| !two.contains(id)), "shared: {held:?}, {others:?}");
    }
    let works = |when: &str| {
        let listener = watched(&observer);
        let mut client = connect(&listener);
        let (mut server, token) = accept(&listener, &observer);
        let sending = MonoNs::now();
        client.write_all(b"x").unwrap();
        server.read_exact(&mut [0]).unwrap();
        let marks = observer.marks(token, 0..1);
        assert_eq!(marks.missing, Missing::NOTHING, "{when}");
        assert_order(&[("send", sending), ("first", marks.first), ("read", MonoNs::now())]);
    };
    works("beside two others");
    killed.kill().unwrap();
    killed.wait().unwrap();
    // A pin would keep them.
    eventually("its programs, maps and links are gone", || held.in_kernel().is_empty());
    assert_eq!(others.in_kernel(), others, "the other's are there");
    works("after one of them was killed");
    other.kill().unwrap();
    other.wait().unwrap();
    eventually("the other's are gone too", || others.in_kernel().is_empty());
}
