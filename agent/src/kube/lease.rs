//! Who of all agents writes statuses: the holder of a Lease, as Kubernetes' own controllers do it. Whether a holder is
//! gone is told by how long its record has not changed, on our own clock: clocks of nodes differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};
use wayspan_proxy::clock::MonoNs;

/// The Lease's name.
const NAME: &str = "wayspan-status";
/// How long a silent holder is waited for.
const DURATION: Duration = Duration::from_secs(15);
/// Between two looks.
const RENEW: Duration = Duration::from_secs(4);

/// What was seen of the Lease, and what to do: pure.
#[derive(Debug, Default)]
struct Election {
    me: String,
    /// The record's version, and since when it is the same.
    seen: Option<(Option<String>, MonoNs)>,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is another's.
    Wait,
    /// It is ours: say so again.
    Renew,
    /// It is nobody's, or its holder is gone.
    Take,
}

impl Election {
    fn step(&mut self, lease: &Lease, now: MonoNs) -> Step {
        let spec = lease.spec.as_ref();
        let holder = spec.and_then(|spec| spec.holder_identity.as_deref()).unwrap_or_default();
        if holder == self.me {
            return Step::Renew;
        }
        let version = lease.metadata.resource_version.clone();
        let since = match &self.seen {
            Some((seen, since)) if *seen == version => *since,
            _ => {
                self.seen = Some((version, now));
                now
            }
        };
        let told = spec.and_then(|spec| spec.lease_duration_seconds).and_then(|seconds| u64::try_from(seconds).ok());
        let duration = told.map_or(DURATION, Duration::from_secs);
        let silent = u128::from(now.0.saturating_sub(since.0)) > duration.as_nanos();
        if holder.is_empty() || silent { Step::Take } else { Step::Wait }
    }
}

/// Stands for election until the receiver is gone; says when we lead and when no longer.
pub async fn stand(client: Client, namespace: String, me: String, leads: watch::Sender<bool>) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut election = Election { me, seen: None };
    let mut renewed = MonoNs::now();
    while !leads.is_closed() {
        match turn(&api, &mut election).await {
            Ok(leading) => {
                renewed = MonoNs::now();
                tell(&leads, leading);
            }
            Err(error) => {
                debug!(%error, lease = NAME, "the lease cannot be read or written");
                // Somebody else may have taken it meanwhile.
                if u128::from(MonoNs::now().0.saturating_sub(renewed.0)) > DURATION.as_nanos() {
                    tell(&leads, false);
                }
            }
        }
        sleep(RENEW).await;
    }
}

/// Whether we lead, for who does what only a leader does.
#[derive(Debug)]
pub struct Lead {
    told: watch::Receiver<bool>,
    /// Somebody waited for a turn, and nobody has looked since.
    turned: bool,
}

/// What a look at it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leading {
    /// At this moment.
    pub leads: bool,
    /// It was otherwise since the last look, be it for a moment: another one may have written.
    pub turned: bool,
}

impl Lead {
    /// Of what [`stand`] says.
    #[must_use]
    pub fn new(told: watch::Receiver<bool>) -> Self {
        Self { told, turned: false }
    }

    /// Waits for a turn, which stays until it is looked at. Cancel-safe. `false`: nobody says so any more.
    pub async fn changed(&mut self) -> bool {
        let changed = self.told.changed().await.is_ok();
        self.turned |= changed;
        changed
    }

    /// How it is, whoever was waited for meanwhile.
    pub fn look(&mut self) -> Leading {
        let told = self.told.borrow_and_update();
        Leading { leads: *told, turned: std::mem::take(&mut self.turned) | told.has_changed() }
    }
}

fn tell(leads: &watch::Sender<bool>, leading: bool) {
    leads.send_if_modified(|led| {
        let turned = *led != leading;
        if turned {
            info!(leading, "who writes statuses");
        }
        *led = leading;
        turned
    });
}

async fn turn(api: &Api<Lease>, election: &mut Election) -> Result<bool, kube::Error> {
    let Some(mut lease) = api.get_opt(NAME).await? else {
        let mut lease = Lease::default();
        lease.metadata.name = Some(NAME.to_owned());
        fill(&mut lease, &election.me, true);
        return won(api.create(&PostParams::default(), &lease).await);
    };
    match election.step(&lease, MonoNs::now()) {
        Step::Wait => Ok(false),
        step => {
            fill(&mut lease, &election.me, step == Step::Take);
            won(api.replace(NAME, &PostParams::default(), &lease).await)
        }
    }
}

fn won(written: Result<Lease, kube::Error>) -> Result<bool, kube::Error> {
    match written {
        Ok(_) => Ok(true),
        // Another one was faster.
        Err(kube::Error::Api(status)) if status.code == 409 => Ok(false),
        Err(error) => Err(error),
    }
}

fn fill(lease: &mut Lease, me: &str, taken: bool) {
    let now = MicroTime(Timestamp::now());
    let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
    if taken {
        spec.acquire_time = Some(now.clone());
        spec.lease_transitions = Some(spec.lease_transitions.unwrap_or(-1).saturating_add(1));
    }
    spec.holder_identity = Some(me.to_owned());
    spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
    spec.renew_time = Some(now);
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[test]
    fn a_turn_is_seen_once_whoever_was_waited_for_and_however_short_it_was() {
        let (tell, told) = watch::channel(false);
        let mut lead = Lead::new(told);
        let is = |leads, turned| Leading { leads, turned };
        assert_eq!(lead.look(), is(false, false));
        tell.send_replace(true);
        // Other news came first.
        assert_eq!((lead.look(), lead.look()), (is(true, true), is(true, false)));
        tell.send_replace(false);
        tell.send_replace(true);
        assert_eq!(lead.look(), is(true, true));
        assert_eq!(lead.changed().now_or_never(), None);
        tell.send_replace(false);
        assert_eq!(lead.changed().now_or_never(), Some(true));
        assert_eq!((lead.look(), lead.look()), (is(false, true), is(false, false)));
    }

    #[test]
    fn a_silent_holder_is_followed_after_its_time_and_a_live_one_never() {
        let mut election = Election { me: "me".to_owned(), seen: None };
        let lease = |holder: &str, version: &str| {
            let mut lease = Lease::default();
            fill(&mut lease, holder, true);
            lease.metadata.resource_version = Some(version.to_owned());
            lease
        };
        let at = |seconds: u64| MonoNs(seconds * 1_000_000_000);
        assert_eq!(election.step(&lease("me", "1"), at(0)), Step::Renew);
        assert_eq!(election.step(&lease("", "2"), at(0)), Step::Take);
        assert_eq!(election.step(&lease("other", "3"), at(100)), Step::Wait);
        assert_eq!(election.step(&lease("other", "4"), at(115)), Step::Wait);
        assert_eq!(election.step(&lease("other", "4"), at(130)), Step::Wait);
        assert_eq!(election.step(&lease("other", "4"), at(131)), Step::Take);
    }
}
