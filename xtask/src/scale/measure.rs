//! What is measured.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use wayspan_tests::http::Connection;

use super::objects::{self, Kind, MANY};
use super::site::{NEW, SHARED, Site, Watching};
use crate::progress::Stopwatch;

/// Rounds by turns, of which the median counts.
const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_secs(2);
/// Connections that ask at once.
const ASKERS: usize = 4;
/// New routes whose time to effect is measured.
const ROUTES: usize = 40;
/// Endpoint changes a second.
const CHURN_PER_SECOND: u64 = 20;
const CHURN_FOR: Duration = Duration::from_secs(20);
/// A change that has no effect by then is lost.
const LOST: Duration = Duration::from_secs(60);

/// CPU of the worker per request, in microseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cost {
    /// With a single route.
    pub(super) one_us: f64,
    /// With all of them, requests for one after the other that lead to the same servers.
    pub(super) many_us: f64,
    /// The same with those alone that are asked now, each of which leads to servers of its own: that more connections are in use
    /// costs, too.
    pub(super) few_us: f64,
    /// Those of all of them.
    pub(super) spread_us: f64,
}

/// The agents in turns, the order changing.
pub(super) fn cost(site: &mut Site) -> Result<Cost> {
    let shared: Vec<String> = (0..SHARED).map(|number| objects::shared(number).1).collect();
    let loads = [
        (site.one(), vec![objects::host(0)]),
        (site.many(), shared),
        (site.few(), spread(site)),
        (site.many(), spread(site)),
    ];
    let mut costs = [const { Vec::new() }; 4];
    // The first of each opens connections.
    for round in 0..=ROUNDS {
        for turn in 0..loads.len() {
            let turn = (turn + round) % loads.len();
            let (Some((watching, hosts)), Some(costs)) = (loads.get(turn), costs.get_mut(turn)) else { continue };
            let cost = round_of(watching, hosts)?;
            if round > 0 {
                costs.push(cost);
            }
        }
    }
    let [one_us, many_us, few_us, spread_us] = costs.map(median);
    Ok(Cost { one_us, many_us, few_us, spread_us })
}

fn spread(site: &Site) -> Vec<String> {
    site.spread().map(objects::host).collect()
}

fn round_of(watching: &Watching, hosts: &[String]) -> Result<f64> {
    let is_worker = |name: &str| name.starts_with("worker");
    let before = watching.cpu_ns(is_worker)?;
    let load = Load::default();
    std::thread::scope(|scope| -> Result<()> {
        let askers: Vec<_> = (0..ASKERS).map(|_| scope.spawn(|| load.ask(watching, hosts))).collect();
        std::thread::sleep(ROUND);
        load.stop.store(true, Ordering::Relaxed);
        askers.into_iter().try_for_each(|asker| asker.join().map_err(|_| anyhow!("an asker panicked"))?)
    })?;
    let requests = load.asked.load(Ordering::Relaxed);
    #[expect(clippy::cast_precision_loss, reason = "microseconds for people")]
    let cost = (watching.cpu_ns(is_worker)? - before) as f64 / 1000.0 / requests.max(1) as f64;
    Ok(cost)
}

/// Requests without a pause.
#[derive(Debug, Default)]
struct Load {
    stop: AtomicBool,
    asked: AtomicU64,
    failed: AtomicU64,
}

impl Load {
    fn ask(&self, watching: &Watching, hosts: &[String]) -> Result<()> {
        let mut connection = Connection::open(watching.web)?;
        for host in hosts.iter().cycle() {
            if self.stop.load(Ordering::Relaxed) {
                break;
            }
            match connection.get(host, "/") {
                Ok(answer) if answer.status == 200 => {}
                Ok(_) => _ = self.failed.fetch_add(1, Ordering::Relaxed),
                Err(_) => {
                    self.failed.fetch_add(1, Ordering::Relaxed);
                    connection = Connection::open(watching.web)?;
                }
            }
            self.asked.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Times to effect, ascending.
#[derive(Debug, Clone, Default)]
pub(super) struct Times(pub(super) Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The least that is not less than so many percent of them.
    pub(super) fn percentile(&self, percent: usize) -> Duration {
        let place = (self.0.len() * percent).div_ceil(100).max(1) - 1;
        self.0.get(place).copied().unwrap_or_default()
    }
}

/// Moves one endpoint after the other to the new server and back: from the API's answer to the end of the first request that
/// the new server answered.
pub(super) fn endpoints(site: &mut Site, changes: usize) -> Result<Times> {
    let mut api = site.api()?;
    let mut times = Vec::with_capacity(changes);
    for change in 0..changes {
        // A stride through all of them, Ingress objects and HTTPRoutes by turns.
        let number = change * 7919 % site.routes;
        let name = objects::slice_name(number, 0);
        let time = effect(site.many(), &objects::host(number), NEW, || {
            api.patch(Kind::Slice, MANY, &name, &objects::moved(site.new))
        })?;
        times.push(time);
        api.patch(Kind::Slice, MANY, &name, &objects::moved(site.old[0]))?;
        site.check()?;
    }
    Ok(Times::of(times))
}

/// New routes to services that are there.
pub(super) fn routes(site: &mut Site) -> Result<Times> {
    let mut api = site.api()?;
    let mut times = Vec::with_capacity(ROUTES);
    for number in 0..ROUTES {
        let (name, host) = (format!("new-{number}"), format!("new-{number}.scale.test"));
        let ingress = objects::ingress(&name, &host, number);
        times.push(effect(site.many(), &host, "old", || api.make(Kind::Ingress, MANY, &ingress))?);
    }
    for number in 0..ROUTES {
        api.delete(Kind::Ingress, MANY, &format!("new-{number}"))?;
    }
    Ok(Times::of(times))
}

/// Asks again and again while `change` is made: from its end to the end of the first request that is answered so.
fn effect(watching: &Watching, host: &str, word: &str, change: impl FnOnce() -> Result<()>) -> Result<Duration> {
    let mut connection = Connection::open(watching.web)?;
    let watch = Stopwatch::start();
    std::thread::scope(|scope| {
        let asker = scope.spawn(move || -> Result<Duration> {
            while watch.elapsed() < LOST {
                if connection.get(host, "/")?.body == word.as_bytes() {
                    return Ok(watch.elapsed());
                }
            }
            bail!("{host}: a change has no effect within {} s", LOST.as_secs())
        });
        let made = change().map(|()| watch.elapsed());
        let seen = asker.join().map_err(|_| anyhow!("the asker panicked"))?;
        // Nothing when the effect was there before the API's answer was.
        Ok(seen?.saturating_sub(made?))
    })
}

/// What a stream of endpoint changes costs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Churn {
    pub(super) per_second: f64,
    /// Of one CPU, all threads but the workers.
    pub(super) share: f64,
    pub(super) ms_each: f64,
}

#[expect(clippy::cast_precision_loss, reason = "shares for people")]
pub(super) fn churn(site: &mut Site) -> Result<Churn> {
    let is_control = |name: &str| !name.starts_with("worker");
    let idle = {
        let before = site.many().cpu_ns(is_control)?;
        let watch = Stopwatch::start();
        std::thread::sleep(CHURN_FOR / 4);
        (site.many().cpu_ns(is_control)? - before) as f64 / watch.elapsed().as_nanos() as f64
    };
    let mut api = site.api()?;
    let before = site.many().cpu_ns(is_control)?;
    let watch = Stopwatch::start();
    let mut made = 0_u64;
    while watch.elapsed() < CHURN_FOR {
        let number = usize::try_from(made * 104_729).unwrap_or(0) % site.routes;
        let port = if made.is_multiple_of(2) { site.new } else { site.old[1] };
        api.patch(Kind::Slice, MANY, &objects::slice_name(number, 0), &objects::moved(port))?;
        made += 1;
        std::thread::sleep(
            Duration::from_nanos(made * 1_000_000_000 / CHURN_PER_SECOND).saturating_sub(watch.elapsed()),
        );
    }
    let span = watch.elapsed();
    let taken = (site.many().cpu_ns(is_control)? - before) as f64;
    let share = taken / span.as_nanos() as f64 - idle;
    let per_second = made as f64 / span.as_secs_f64();
    Ok(Churn { per_second, share, ms_each: share / per_second * 1000.0 })
}

/// What requests notice of an API server that is away.
#[derive(Debug, Clone, Copy)]
pub(super) struct Absence {
    pub(super) away: Duration,
    pub(super) requests: u64,
    pub(super) failed: u64,
    /// From its return to the effect of a change that was made then.
    pub(super) caught_up: Duration,
}

pub(super) fn absence(site: &mut Site, away: Duration) -> Result<Absence> {
    let hosts = spread(site);
    let load = Load::default();
    let (web, number) = (site.many().web, site.routes / 3);
    site.cluster.down();
    let watch = Stopwatch::start();
    std::thread::scope(|scope| -> Result<()> {
        let asker = scope.spawn(|| load.ask(site.many(), &hosts));
        std::thread::sleep(away);
        load.stop.store(true, Ordering::Relaxed);
        asker.join().map_err(|_| anyhow!("the asker panicked"))?
    })?;
    let away = watch.elapsed();
    site.cluster.up()?;
    let back = Stopwatch::start();
    let patch = objects::moved(site.new);
    site.api()?.patch(Kind::Slice, MANY, &objects::slice_name(number, 0), &patch).context("after its return")?;
    let mut connection = Connection::open(web)?;
    while connection.get(&objects::host(number), "/")?.body != NEW.as_bytes() {
        if back.elapsed() > LOST {
            bail!("the agent has not caught up within {} s", LOST.as_secs());
        }
    }
    let (requests, failed) = (load.asked.load(Ordering::Relaxed), load.failed.load(Ordering::Relaxed));
    Ok(Absence { away, requests, failed, caught_up: back.elapsed() })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_were_measured() {
        let times = Times::of((1..=200).rev().map(Duration::from_millis).collect());
        let at = |percent| times.percentile(percent).as_millis();
        assert_eq!((at(50), at(99), at(100)), (100, 198, 200));
        assert_eq!(Times::default().percentile(99), Duration::ZERO);
        assert_eq!(Times::of(vec![Duration::from_millis(7)]).percentile(50).as_millis(), 7);
        assert!(median(vec![3.0, 1.0, 2.0]) == 2.0);
    }
}
