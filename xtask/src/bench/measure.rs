//! One round of load on one contender, and what it cost: CPU from /proc, latencies from wrk, system calls from strace.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::contenders::{Contender, Running, Site};

/// What one round showed.
#[derive(Debug, Clone)]
pub(super) struct Sample {
    pub(super) requests: u64,
    pub(super) failed: u64,
    pub(super) cpu_us: f64,
    pub(super) machine_us: f64,
    pub(super) per_second: f64,
    pub(super) p50_us: f64,
    pub(super) p99_us: f64,
    pub(super) switches: f64,
    pub(super) resident_mb: f64,
    pub(super) spans: u64,
}

/// Starts the contender, warms it up, loads it, and reads the counters before and after.
#[expect(clippy::cast_precision_loss, reason = "counts of a few seconds")]
pub(super) fn round(site: &Site, contender: &Contender, time: Duration, connections: u32) -> Result<Sample> {
    let running = contender.start(site)?;
    load(site, &running, Duration::from_secs(1), connections)?;
    let spans_before = site.spans()?;
    let (ticks, machine, switches) = (ticks(&running.pids()?)?, machine_ticks()?, switches(&running.pids()?)?);
    let load = load(site, &running, time, connections)?;
    let pids = running.pids()?;
    let cpu = self::ticks(&pids)?.saturating_sub(ticks);
    let machine = machine_ticks()?.saturating_sub(machine);
    let switches = self::switches(&pids)?.saturating_sub(switches);
    let resident_mb = resident_kb(&pids)? as f64 / 1024.0;
    // Spans are batched for up to a second: the count is for the order of magnitude, exactness is tested elsewhere.
    let spans = site.spans()?.saturating_sub(spans_before);
    drop(running);
    let requests = load.requests.max(1) as f64;
    // USER_HZ is 100 on every Linux that exposes these files.
    let us = |ticks: u64| ticks as f64 * 10_000.0 / requests;
    Ok(Sample {
        requests: load.requests,
        failed: load.failed,
        cpu_us: us(cpu),
        machine_us: us(machine),
        per_second: load.per_second,
        p50_us: load.p50_us,
        p99_us: load.p99_us,
        switches: switches as f64 / requests,
        resident_mb,
        spans,
    })
}

/// System calls per request, by name, from a round of its own: strace slows everything it watches.
pub(super) fn syscalls(site: &Site, contender: &Contender, connections: u32) -> Result<BTreeMap<String, f64>> {
    let running = contender.start(site)?;
    load(site, &running, Duration::from_secs(1), connections)?;
    let summary = site.scratch.join("strace.txt");
    let mut strace = Command::new("strace");
    strace.args(["-c", "-f", "-U", "name,calls", "-o"]).arg(&summary);
    for pid in running.pids()? {
        strace.arg("-p").arg(pid.to_string());
    }
    let mut strace = strace.stderr(Stdio::piped()).spawn().context("strace")?;
    // It says so when it is attached; before that, calls would be missed.
    let mut said = std::io::BufReader::new(strace.stderr.take().context("strace's stderr")?);
    std::io::BufRead::read_line(&mut said, &mut String::new())?;
    let load = load(site, &running, Duration::from_secs(2), connections)?;
    let pid = strace.id().to_string();
    Command::new("kill").args(["-INT", &pid]).status()?;
    strace.wait()?;
    let text = std::fs::read_to_string(&summary)?;
    let mut calls = BTreeMap::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        if let (Some(name), Some(Ok(count))) = (fields.next(), fields.next().map(str::parse::<f64>))
            && name != "total"
        {
            #[expect(clippy::cast_precision_loss, reason = "a ratio for people")]
            calls.insert(name.to_owned(), count / load.requests.max(1) as f64);
        }
    }
    Ok(calls)
}

pub(super) struct Load {
    pub(super) requests: u64,
    failed: u64,
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

pub(super) fn load(site: &Site, running: &Running, time: Duration, connections: u32) -> Result<Load> {
    let script = site.scratch.join("report.lua");
    std::fs::write(&script, REPORT)?;
    let output = Command::new("wrk")
        .args(["-t1", "--latency", "-c", &connections.to_string(), "-d", &format!("{}s", time.as_secs())])
        .args(["-H", "Host: bench.localhost", "-s"])
        .arg(&script)
        .arg(format!("http://127.0.0.1:{}/index.html", running.port))
        .output()
        .context("wrk")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(line) = text.lines().find_map(|line| line.strip_prefix("report ")) else {
        bail!("wrk gave no report: {text}{}", String::from_utf8_lossy(&output.stderr));
    };
    let fields: Vec<f64> = line.split(' ').filter_map(|field| field.parse().ok()).collect();
    let [requests, micros, failed, p50_us, p99_us] = fields.as_slice() else { bail!("wrk's report: {line}") };
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts")]
    Ok(Load {
        requests: *requests as u64,
        failed: *failed as u64,
        per_second: requests / (micros / 1e6),
        p50_us: *p50_us,
        p99_us: *p99_us,
    })
}

/// wrk's own text rounds; this gives whole numbers.
const REPORT: &str = r#"
done = function(summary, latency)
  local e = summary.errors
  io.write(string.format("report %d %d %d %d %d\n", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
"#;

/// CPU that processes have taken so far, in hundredths of a second.
pub(crate) fn ticks(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name in parentheses may hold spaces (proc(5)).
        let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
        let fields: Vec<&str> = rest.split_whitespace().collect();
        for index in [11, 12] {
            sum += fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        }
    }
    Ok(sum)
}

fn machine_ticks() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // All but idle and iowait.
    let busy = fields.iter().take(8).enumerate().filter(|(index, _)| ![3, 4].contains(index)).map(|(_, ticks)| ticks);
    Ok(busy.sum())
}

fn switches(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let status = std::fs::read_to_string(task?.path().join("status")).unwrap_or_default();
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            sum += lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>();
        }
    }
    Ok(sum)
}

/// Memory that is theirs right now.
pub(crate) fn resident_kb(pids: &[u32]) -> Result<u64> {
    let mut sum = 0;
    for pid in pids {
        let status = std::fs::read_to_string(PathBuf::from(format!("/proc/{pid}/status")))?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"));
        sum += line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).unwrap_or(0);
    }
    Ok(sum)
}
