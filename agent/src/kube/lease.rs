//! Who of all agents writes statuses: the holder of a Lease, as Kubernetes' own controllers do it. Whether a holder is
//! gone is told by how long its record has not changed, on our own clock: clocks of nodes differ.

use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, info, warn};
use wayspan_proxy::clock::MonoNs;

use super::objects::Key;
use crate::config::model::Kubernetes;

/// What a Lease is called that nobody names.
const NAME: &str = "wayspan-status";
/// How long a silent holder is waited for.
const DURATION: Duration = Duration::from_secs(15);

/// How often and how long it is tried. A holder that cannot say so again stops before anyone else may begin.
#[derive(Debug, Clone, Copy)]
struct Terms {
    /// Between two looks.
    renew: Duration,
    /// After one that failed.
    retry: Duration,
    /// For one look.
    answer: Duration,
    /// For how long we lead since the request was begun that last said so: below [`DURATION`], with time for writes that are on
    /// their way.
    deadline: Duration,
}

const TERMS: Terms = Terms {
    renew: Duration::from_secs(4),
    retry: Duration::from_secs(2),
    answer: Duration::from_secs(5),
    deadline: Duration::from_secs(10),
};

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

/// The name of the Lease of all agents that serve one class: where they serve different ones, each is to have a leader.
#[must_use]
pub fn name(said: Option<&str>, settings: &Kubernetes) -> String {
    let class = settings.providers().map(|provider| provider.ingress_class.as_str()).find(|class| !class.is_empty());
    match (said, class) {
        (Some(said), _) => said.to_owned(),
        (None, Some(class)) => format!("{NAME}-{class}"),
        (None, None) => NAME.to_owned(),
    }
}

/// Stands for election to a Lease until the receiver is gone; says when we lead and when no longer.
pub async fn stand(client: Client, lease: Key, me: String, leads: watch::Sender<bool>) {
    stand_by(TERMS, &Api::namespaced(client, &lease.namespace), &lease.name, me, leads).await;
}

async fn stand_by(terms: Terms, api: &Api<Lease>, name: &str, me: String, leads: watch::Sender<bool>) {
    let mut election = Election { me, seen: None };
    let (mut renewed, mut is_told) = (MonoNs(0), false);
    let left = |renewed: MonoNs| Duration::from_nanos((renewed + terms.deadline).0.saturating_sub(MonoNs::now().0));
    while !leads.is_closed() {
        let begun = MonoNs::now();
        let limit = if *leads.borrow() { terms.answer.min(left(renewed)) } else { terms.answer };
        let wait = match timeout(limit, turn(api, name, &mut election)).await {
            Ok(Ok(leading)) => {
                (renewed, is_told) = (begun, false);
                tell(&leads, leading);
                terms.renew
            }
            Ok(Err(error)) => {
                if is_told {
                    debug!(%error, lease = name, "the Lease cannot be read or written");
                } else {
                    warn!(%error, lease = name, "the Lease cannot be read or written: this agent writes no status and no event");
                }
                is_told = true;
                terms.retry
            }
            Err(_) => {
                debug!(lease = name, "the API server did not answer for the Lease in time");
                terms.retry
            }
        };
        if left(renewed).is_zero() {
            tell(&leads, false);
        }
        let leading = *leads.borrow();
        sleep(if leading { wait.min(left(renewed)) } else { wait }).await;
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

async fn turn(api: &Api<Lease>, name: &str, election: &mut Election) -> Result<bool, kube::Error> {
    let Some(mut lease) = api.get_opt(name).await? else {
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.to_owned());
        fill(&mut lease, &election.me, true);
        return won(api.create(&PostParams::default(), &lease).await);
    };
    match election.step(&lease, MonoNs::now()) {
        Step::Wait => Ok(false),
        step => {
            fill(&mut lease, &election.me, step == Step::Take);
            won(api.replace(name, &PostParams::default(), &lease).await)
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
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use serde_json::json;
    use wayspan_tests::{Reply, Request, Upstream};

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

    /// A server that gives the lease to whoever asks until `answers` is over, and then takes requests and says nothing.
    fn server(answers: usize) -> Upstream {
        let count = AtomicUsize::new(0);
        let answer = move |request: &Request| {
            if count.fetch_add(1, Ordering::Relaxed) >= answers {
                return Reply::default();
            }
            let body = match request.method.as_str() {
                "GET" => json!({"metadata": {"name": NAME, "resourceVersion": "1"}, "spec": {"holderIdentity": "me"}})
                    .to_string(),
                _ => String::from_utf8_lossy(&request.body).into_owned(),
            };
            Reply::ok(&body)
        };
        Upstream::start(answer).unwrap()
    }

    #[tokio::test]
    async fn who_cannot_renew_stops_before_its_time_is_over() {
        // Two looks of two requests each.
        let server = server(4);
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let api = Api::namespaced(Client::try_from(config).unwrap(), "default");
        let ms = Duration::from_millis;
        // The last look would end long after the deadline.
        let terms = Terms { renew: ms(100), retry: ms(20), answer: ms(60_000), deadline: ms(500) };
        let (leads, mut told) = watch::channel(false);
        let standing = stand_by(terms, &api, NAME, "me".to_owned(), leads);
        let heard = async {
            told.wait_for(|leading| *leading).await.unwrap();
            let since = MonoNs::now();
            told.wait_for(|leading| !*leading).await.unwrap();
            Duration::from_nanos(MonoNs::now().0 - since.0)
        };
        let led = tokio::select! {
            () = standing => unreachable!("somebody listens"),
            led = timeout(ms(10_000), heard) => led.unwrap(),
        };
        assert!(led < ms(5_000), "{led:?}");
    }

    #[test]
    fn a_leader_stops_well_before_others_may_begin() {
        assert!(TERMS.deadline + TERMS.answer <= DURATION);
        assert!(TERMS.renew + TERMS.answer < TERMS.deadline);
    }

    #[test]
    fn agents_of_different_classes_or_releases_have_leases_of_their_own() {
        use crate::config::model::KubernetesProvider;

        let of = |class: &str| {
            let provider = KubernetesProvider { ingress_class: class.to_owned(), ..KubernetesProvider::default() };
            Kubernetes { ingress: Some(provider), crd: Some(KubernetesProvider::default()), ..Kubernetes::default() }
        };
        assert_eq!(name(None, &of("")), "wayspan-status");
        assert_eq!(name(None, &of("inner")), "wayspan-status-inner");
        assert_eq!(name(Some("edge-status"), &of("inner")), "edge-status");
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
