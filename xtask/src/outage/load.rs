//! The load generator: one thread, keep-alive connections, one epoll. In open loop requests are due at fixed times,
//! whatever the answers do, and a latency counts from the time at which its request was due: a slow server cannot make
//! its own measurement rarer (no coordinated omission). In closed loop each answer is followed by the next request.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::buffer::spare_capacity;
use rustix::event::epoll;
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::progress::Stopwatch;

/// Connections, as in the bench.
const CONNECTIONS: usize = 64;
/// How long the next answer is waited for after the last request was due.
const GRACE: Duration = Duration::from_secs(15);
/// How often the end is looked for where nothing comes.
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// More than the expected answer's head and body.
const ANSWER_BYTES_MAX: usize = 16 << 10;
/// The timer among the connections, which are numbered from 0.
const TIMER: u64 = u64::MAX;

/// What is asked and answered.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// Where.
    pub(super) address: SocketAddr,
    /// The request, as it is sent.
    pub(super) request: String,
    /// The body of a right answer.
    pub(super) body: String,
}

/// When requests are due.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// Closed loop: with the answer before.
    AtOnce,
    /// Open loop: one per interval.
    Every(Duration),
}

/// A request that was answered.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shot {
    /// When it was due, since the stopwatch started.
    pub(super) due_us: u32,
    /// From then until its answer's last byte.
    pub(super) latency_us: u32,
    /// How much of that was the generator, which woke up late.
    pub(super) late_us: u32,
}

/// What came of a load.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The requests that were answered 200, with the whole body.
    pub(super) shots: Vec<Shot>,
    /// Those that were not.
    pub(super) failed: u64,
    /// What was wrong with the first of them.
    pub(super) first_fault: Option<String>,
}

/// Sends requests at that pace until `stop`, then waits for the last answers. `shots` are expected.
pub(super) fn run(target: &Target, pace: Pace, shots: usize, watch: Stopwatch, stop: &AtomicBool) -> Result<Outcome> {
    // At its usual priority: a raised one would weigh down its CPU's half of the session in the kernel's eyes, and leave
    // the ingress on the other half waiting behind other sessions (sched_autogroup), for up to a second as measured.
    let mut generator = Generator::new(target, pace, shots, watch)?;
    let mut events = Vec::with_capacity(CONNECTIONS + 1);
    let mut ending: Option<Duration> = None;
    loop {
        if ending.is_none() && stop.load(Ordering::Relaxed) {
            ending = Some(watch.elapsed());
            generator.last_is_due();
        }
        if ending.is_some_and(|since| generator.is_idle() || watch.elapsed() > since.max(generator.answered_at) + GRACE)
        {
            break;
        }
        match epoll::wait(&generator.epoll, spare_capacity(&mut events), Some(&LOOK)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in events.drain(..) {
            match event.data.u64() {
                TIMER => generator.tick()?,
                number => generator.readable(usize::try_from(number)?)?,
            }
        }
        generator.send_due()?;
    }
    Ok(generator.finish())
}

/// A request that is due.
#[derive(Debug, Clone, Copy)]
struct Due {
    at: Duration,
    late: Duration,
}

/// One connection, and the request that is under way on it.
struct Link {
    socket: TcpStream,
    under_way: Option<Due>,
    answer: Vec<u8>,
}

struct Generator<'a> {
    target: &'a Target,
    pace: Pace,
    watch: Stopwatch,
    epoll: OwnedFd,
    timer: OwnedFd,
    begun: Duration,
    answered_at: Duration,
    ticks: u32,
    ended: bool,
    links: Vec<Link>,
    /// The longest unused first, so that all are used.
    idle: VecDeque<usize>,
    due: VecDeque<Due>,
    outcome: Outcome,
}

impl<'a> Generator<'a> {
    fn new(target: &'a Target, pace: Pace, shots: usize, watch: Stopwatch) -> Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        let timer =
            rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, epoll::EventData::new_u64(TIMER), epoll::EventFlags::IN)?;
        let links = (0..CONNECTIONS).map(|number| connect(target, &epoll, number)).collect::<Result<Vec<_>>>()?;
        let begun = watch.elapsed();
        let mut due = VecDeque::new();
        match pace {
            Pace::AtOnce => due.extend([Due { at: begun, late: Duration::ZERO }; CONNECTIONS]),
            Pace::Every(interval) => {
                let interval =
                    Timespec { tv_sec: interval.as_secs().try_into()?, tv_nsec: interval.subsec_nanos().into() };
                let setting = Itimerspec { it_interval: interval, it_value: interval };
                rustix::time::timerfd_settime(&timer, TimerfdTimerFlags::empty(), &setting)?;
            }
        }
        Ok(Self {
            target,
            pace,
            watch,
            epoll,
            timer,
            begun,
            answered_at: begun,
            ticks: 0,
            ended: false,
            links,
            idle: (0..CONNECTIONS).collect(),
            due,
            outcome: Outcome { shots: Vec::with_capacity(shots), ..Outcome::default() },
        })
    }

    /// The timer has expired, once or more.
    fn tick(&mut self) -> Result<()> {
        let mut expired = [0; 8];
        match rustix::io::read(&self.timer, &mut expired) {
            Ok(_) => {}
            Err(rustix::io::Errno::AGAIN) => return Ok(()),
            Err(error) => return Err(error).context("timer"),
        }
        let Pace::Every(interval) = self.pace else { return Ok(()) };
        if self.ended {
            return Ok(());
        }
        let now = self.watch.elapsed();
        for _ in 0..u64::from_ne_bytes(expired) {
            self.ticks += 1;
            let at = self.begun + interval * self.ticks;
            self.due.push_back(Due { at, late: now.saturating_sub(at) });
        }
        Ok(())
    }

    fn send_due(&mut self) -> Result<()> {
        while let (Some(&due), Some(&number)) = (self.due.front(), self.idle.front()) {
            self.due.pop_front();
            self.idle.pop_front();
            let Some(link) = self.links.get_mut(number) else { continue };
            link.under_way = Some(due);
            link.answer.clear();
            // A request is far smaller than a socket's buffer: it is taken whole, or the connection is broken.
            if let Err(error) = link.socket.write_all(self.target.request.as_bytes()) {
                self.fail(number, &format!("a request was not taken: {error}"))?;
            }
        }
        Ok(())
    }

    fn readable(&mut self, number: usize) -> Result<()> {
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        let mut bytes = [0; 4096];
        match link.socket.read(&mut bytes) {
            Ok(0) => return self.fail(number, "a connection was closed"),
            Ok(read) => link.answer.extend_from_slice(bytes.get(..read).unwrap_or_default()),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return self.fail(number, &error.to_string()),
        }
        match judge(&link.answer, self.target.body.as_bytes()) {
            Answer::Partial => Ok(()),
            Answer::Wrong => {
                let start = String::from_utf8_lossy(&link.answer).chars().take(200).collect::<String>();
                self.fail(number, &format!("a wrong answer: {start:?}"))
            }
            Answer::Whole => {
                let Some(due) = link.under_way.take() else { return self.fail(number, "an answer without a request") };
                self.idle.push_back(number);
                self.answered(due);
                Ok(())
            }
        }
    }

    fn answered(&mut self, due: Due) {
        let now = self.watch.elapsed();
        self.answered_at = now;
        let us = |span: Duration| u32::try_from(span.as_micros()).unwrap_or(u32::MAX);
        let shot = Shot { due_us: us(due.at), latency_us: us(now.saturating_sub(due.at)), late_us: us(due.late) };
        self.outcome.shots.push(shot);
        if matches!(self.pace, Pace::AtOnce) && !self.ended {
            self.due.push_back(Due { at: now, late: Duration::ZERO });
        }
    }

    /// Counts what was under way on the connection, or the connection itself, as failed, and opens another in its place.
    fn fail(&mut self, number: usize, why: &str) -> Result<()> {
        self.outcome.failed += 1;
        self.outcome.first_fault.get_or_insert_with(|| why.to_owned());
        let again = connect(self.target, &self.epoll, number).with_context(|| format!("{why}, and then"))?;
        let Some(link) = self.links.get_mut(number) else { return Ok(()) };
        if std::mem::replace(link, again).under_way.is_some() {
            self.idle.push_back(number);
        }
        Ok(())
    }

    fn last_is_due(&mut self) {
        self.ended = true;
        if matches!(self.pace, Pace::AtOnce) {
            self.due.clear();
        }
    }

    fn is_idle(&self) -> bool {
        self.due.is_empty() && self.idle.len() == self.links.len()
    }

    fn finish(mut self) -> Outcome {
        let unanswered = self.links.iter().filter(|link| link.under_way.is_some()).count() + self.due.len();
        if unanswered > 0 {
            self.outcome.failed += unanswered as u64;
            self.outcome.first_fault.get_or_insert_with(|| format!("{unanswered} requests were not answered at all"));
        }
        self.outcome
    }
}

fn connect(target: &Target, epoll: &OwnedFd, number: usize) -> Result<Link> {
    let socket = TcpStream::connect(target.address).with_context(|| format!("connect to {}", target.address))?;
    socket.set_nodelay(true)?;
    socket.set_nonblocking(true)?;
    epoll::add(epoll, &socket, epoll::EventData::new_u64(number as u64), epoll::EventFlags::IN)?;
    Ok(Link { socket, under_way: None, answer: Vec::with_capacity(1024) })
}

#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Partial,
    Whole,
    Wrong,
}

/// Whether these bytes are a 200 with exactly that body, could become one, or cannot.
fn judge(answer: &[u8], body: &[u8]) -> Answer {
    const STATUS: &[u8] = b"HTTP/1.1 200 ";
    let begins_well = answer.iter().zip(STATUS).all(|(byte, expected)| byte == expected);
    if !begins_well || answer.len() > ANSWER_BYTES_MAX {
        return Answer::Wrong;
    }
    // The body is known: its end is looked for instead of the head's.
    match answer.strip_suffix(body) {
        Some(head) if head.ends_with(b"\r\n\r\n") => Answer::Whole,
        _ => Answer::Partial,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;
    use wayspan_tests::{Reply, Upstream};

    fn target(upstream: &Upstream) -> Target {
        Target {
            address: upstream.address(),
            request: "GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_owned(),
            body: "whole".to_owned(),
        }
    }

    /// Loads the upstream for that long.
    fn load(upstream: &Upstream, pace: Pace, span: Duration) -> Outcome {
        let (target, stop, watch) = (target(upstream), AtomicBool::new(false), Stopwatch::start());
        std::thread::scope(|scope| {
            let load = scope.spawn(|| run(&target, pace, 0, watch, &stop));
            std::thread::sleep(span);
            stop.store(true, Ordering::Relaxed);
            load.join().unwrap().unwrap()
        })
    }

    #[test]
    fn a_server_that_pauses_is_asked_all_the_same_and_the_wait_counts_from_when_a_request_was_due() {
        let first = Mutex::new(true);
        let upstream = Upstream::start(move |_| {
            // All answers wait for the first.
            if std::mem::take(&mut *first.lock().unwrap()) {
                let _held = first.lock().unwrap();
                std::thread::sleep(Duration::from_millis(400));
            }
            Reply::ok("whole")
        })
        .unwrap();
        let outcome = load(&upstream, Pace::Every(Duration::from_millis(1)), Duration::from_millis(800));
        assert_eq!((outcome.failed, outcome.first_fault), (0, None));
        // A generator that waits for answers would have one slow request per connection.
        let slow = outcome.shots.iter().filter(|shot| shot.latency_us > 100_000).count();
        assert!(slow > 3 * CONNECTIONS, "{slow} of {}", outcome.shots.len());
    }

    #[test]
    fn every_request_that_is_not_answered_whole_is_a_failed_one() {
        let count = std::sync::atomic::AtomicU64::new(0);
        let upstream = Upstream::start(move |_| match count.fetch_add(1, Ordering::Relaxed) % 4 {
            0 => Reply::raw("HTTP/1.1 502 Bad Gateway\r\ncontent-length: 5\r\n\r\nwhole".as_bytes()),
            1 => Reply::raw("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nwho".as_bytes()).then_close(),
            _ => Reply::ok("whole"),
        })
        .unwrap();
        let outcome = load(&upstream, Pace::Every(Duration::from_millis(1)), Duration::from_millis(200));
        let asked = upstream.requests().len() as u64;
        assert_eq!(outcome.shots.len() as u64 + outcome.failed, asked);
        assert!(outcome.failed >= asked / 2, "{} of {asked}", outcome.failed);
        assert!(outcome.first_fault.is_some());
    }

    #[test]
    fn an_answer_is_whole_with_its_last_byte() {
        let whole = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi";
        for length in 0..whole.len() {
            assert_eq!(judge(whole.get(..length).unwrap(), b"hi"), Answer::Partial, "{length}");
        }
        assert_eq!(judge(whole, b"hi"), Answer::Whole);
        assert_eq!(judge(whole, b"ho"), Answer::Partial);
        assert_eq!(judge(b"HTTP/1.1 503 ", b"hi"), Answer::Wrong);
        assert_eq!(judge(&[whole.as_slice(), &[0; ANSWER_BYTES_MAX]].concat(), b"hi"), Answer::Wrong);
    }
}
