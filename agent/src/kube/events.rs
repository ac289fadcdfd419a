//! Tells of bad objects as events, which `kubectl describe` shows beside them. There is one event for each problem, whoever of
//! all agents writes it and however often: its name is made of what it says. What goes on is told again before the API server
//! forgets it, and not faster than it bears.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::api::events::v1::{Event, EventSeries};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, warn};
use wayspan_proxy::clock::MonoNs;

use super::client::{Pace, causes};
use super::objects::Objects;
use super::parts::Problem;
use super::status;
use super::translate::names;
use super::watch::Health;

/// Problems that are told of; of more than that nobody reads the events, and the log and the dashboard have all.
const MOST: usize = 500;
/// The API server keeps events for an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(10);
/// So often one is tried that the server refuses: its namespace may be on its way out, or a role not bound yet.
const TRIES_MAX: u32 = 3;
/// Events at once, and then so many a second: 500 take as long as anyone takes to look.
const BURST: u32 = 25;
const PER_SECOND: u32 = 5;
const CONTROLLER: &str = "wayspan";
/// The API takes a kilobyte.
const NOTE_BYTES: usize = 1000;
/// Names are 253 bytes at most, and the digest needs some.
const NAME_BYTES: usize = 200;

/// A problem to tell of, with the object that it is about.
#[derive(Debug, Clone, PartialEq)]
pub struct Told {
    /// The event's own name.
    name: String,
    /// What it says.
    pub(super) note: String,
    about: ObjectReference,
}

/// What there is to tell. An object that has gone meanwhile has no events.
#[must_use]
pub fn told(objects: &Objects, problems: &[Problem]) -> Vec<Told> {
    let one = |problem: &Problem| Some(Told::new(problem, status::reference(objects, &problem.object)?));
    let mut all: Vec<Told> = problems.iter().filter_map(one).take(MOST).collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all.dedup_by(|a, b| a.name == b.name);
    all
}

impl Told {
    fn new(problem: &Problem, about: ObjectReference) -> Self {
        let colon = if problem.path.is_empty() { "" } else { ": " };
        let mut note = format!("{}{colon}{}", problem.path, problem.message);
        note.truncate(note.floor_char_boundary(NOTE_BYTES));
        let uid = about.uid.as_deref().unwrap_or_default();
        let digest = names::hex(&format!("{} {uid} {note}", problem.object), 8);
        let object = &problem.object.key.name;
        let object = object.get(..object.floor_char_boundary(NAME_BYTES)).unwrap_or_default();
        Self { name: format!("{}.{digest}", object.trim_end_matches(['.', '-'])), note, about }
    }

    fn namespace(&self) -> &str {
        self.about.namespace.as_deref().filter(|namespace| !namespace.is_empty()).unwrap_or("default")
    }

    fn event(&self, instance: &str) -> Event {
        let mut event = Event {
            action: Some("Translate".to_owned()),
            reason: Some("NotServed".to_owned()),
            type_: Some("Warning".to_owned()),
            event_time: Some(MicroTime(Timestamp::now())),
            regarding: Some(self.about.clone()),
            note: Some(self.note.clone()),
            reporting_controller: Some(CONTROLLER.to_owned()),
            reporting_instance: Some(instance.to_owned()),
            ..Event::default()
        };
        event.metadata.name = Some(self.name.clone());
        event.metadata.namespace = Some(self.namespace().to_owned());
        event
    }
}

/// What became of an event.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Known {
    /// How often it was told; 0: never yet.
    count: i32,
    /// How often in a row it could not be written.
    tries: u32,
    /// When it is to be written next.
    due: MonoNs,
}

impl Known {
    /// Behind a try. One that the server refuses is given up for as long as one that was written.
    fn after(self, told: &Result<i32, kube::Error>, now: MonoNs) -> Self {
        let tries = self.tries.saturating_add(1);
        match told {
            Ok(count) => Self { count: *count, tries: 0, due: now + AGAIN },
            Err(kube::Error::Api(_)) if tries >= TRIES_MAX => Self { tries: 0, due: now + AGAIN, ..self },
            Err(_) => Self { tries, due: now + RETRY, ..self },
        }
    }

    fn is_given_up(self) -> bool {
        self.tries == 0
    }
}

/// Writes events: of all problems for one who leads, of its own node's for any.
pub struct Teller {
    client: Client,
    told: watch::Receiver<Arc<[Told]>>,
    instance: String,
    pace: Pace,
    health: Arc<Health>,
    /// By name, of those that there still are.
    known: HashMap<String, Known>,
    /// Some could not be written, which was said.
    failed: bool,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

impl Teller {
    /// `instance` is our name.
    #[must_use]
    pub fn new(client: Client, told: watch::Receiver<Arc<[Told]>>, instance: &str, health: Arc<Health>) -> Self {
        // What the API takes at most.
        let instance = instance.chars().take(128).collect();
        let pace = Pace::new(PER_SECOND, BURST);
        Self { client, told, instance, pace, health, known: HashMap::new(), failed: false }
    }

    /// Until nobody has anything to tell any more.
    pub async fn run(mut self) {
        loop {
            let wait = self.tell_all().await;
            tokio::select! {
                changed = self.told.changed() => if changed.is_err() {
                    return;
                },
                () = sleep(wait) => {}
            }
        }
    }

    /// What is due; gives when the next one is. One that the server refuses does not keep the others back, and of a server
    /// that is away not each of them asks.
    async fn tell_all(&mut self) -> Duration {
        let all = Arc::clone(&self.told.borrow_and_update());
        self.known.retain(|name, _| all.binary_search_by(|told| told.name.cmp(name)).is_ok());
        let state = |known: &HashMap<String, Known>, told: &Told| known.get(&told.name).copied().unwrap_or_default();
        let now = MonoNs::now();
        let mut due: Vec<&Told> = all.iter().filter(|told| state(&self.known, told).due <= now).collect();
        due.sort_by_key(|told| state(&self.known, told).tries);
        let mut has_failed = false;
        for told in due {
            if self.told.has_changed().unwrap_or(true) {
                return Duration::ZERO;
            }
            sleep(self.pace.take(MonoNs::now())).await;
            let before = state(&self.known, told);
            let result = self.tell(told, before.count).await;
            let after = before.after(&result, MonoNs::now());
            self.known.insert(told.name.clone(), after);
            let Err(error) = result else { continue };
            has_failed = true;
            if !std::mem::replace(&mut self.failed, true) {
                warn!(event = told.name, error = causes(&error), "an event cannot be written; it is tried again");
            }
            if !matches!(error, kube::Error::Api(_)) {
                return RETRY;
            }
            if after.is_given_up() {
                self.health.event_refused();
                debug!(event = told.name, error = causes(&error), "an event is given up until it is told again");
            }
        }
        self.failed &= has_failed;
        let next = all.iter().map(|told| state(&self.known, told).due).min();
        let now = MonoNs::now();
        next.map_or(AGAIN, |next| Duration::from_nanos(next.0.saturating_sub(now.0)))
    }

    /// Writes one event, or that it goes on; gives how often it was told.
    async fn tell(&self, told: &Told, before: i32) -> Result<i32, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), told.namespace());
        if before == 0 {
            match api.create(&PostParams::default(), &told.event(&self.instance)).await {
                Ok(_) => return Ok(1),
                // An agent before us told of it.
                Err(kube::Error::Api(status)) if status.code == 409 => {}
                // Its namespace is on its way out, and so is what we would speak of.
                Err(kube::Error::Api(status))
                    if matches!(status.code, 403 | 404) && status.message.contains("terminat") =>
                {
                    return Ok(1);
                }
                Err(error) => return Err(error),
            }
        }
        let count = before.max(1).saturating_add(1);
        let series = EventSeries { count, last_observed_time: MicroTime(Timestamp::now()) };
        let patch = Patch::Merge(json!({ "series": series }));
        match api.patch(&told.name, &PatchParams::default(), &patch).await {
            Ok(_) => Ok(count),
            // Forgotten meanwhile.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                api.create(&PostParams::default(), &told.event(&self.instance)).await?;
                debug!(event = told.name, "told anew");
                Ok(1)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;
    use wayspan_tests::{Reply, Request, Upstream};

    use super::super::objects::Key;
    use super::super::parts::Object;
    use super::super::translate::tests::objects;
    use super::*;

    fn told_of(name: &str) -> Told {
        let about = ObjectReference { namespace: Some("default".to_owned()), ..ObjectReference::default() };
        Told { name: name.to_owned(), note: "is wrong".to_owned(), about }
    }

    fn refusal(code: u16) -> kube::Error {
        kube::Error::Api(Status { code, ..Status::default() }.boxed())
    }

    #[tokio::test]
    async fn an_event_that_is_refused_keeps_no_other_back() {
        let server = Upstream::start(|request: &Request| {
            let body = String::from_utf8_lossy(&request.body).into_owned();
            if !body.contains("\"name\":\"a\"") {
                return Reply::ok(&body);
            }
            let body = r#"{"kind":"Status","apiVersion":"v1","status":"Failure","code":422,"reason":"Invalid","message":"no"}"#;
            Reply::raw(format!("HTTP/1.1 422 No\r\ncontent-length: {}\r\n\r\n{body}", body.len()).as_bytes())
        });
        let server = server.unwrap();
        let config = kube::Config::new(format!("http://{}", server.address()).parse().unwrap());
        let (tell, told) = watch::channel(Arc::from(["a", "b", "c"].map(told_of)));
        let health = Arc::new(Health::default());
        let mut teller = Teller::new(Client::try_from(config).unwrap(), told, "me", Arc::clone(&health));
        for tries in 1..=TRIES_MAX {
            let wait = teller.tell_all().await;
            assert!(if tries < TRIES_MAX { wait <= RETRY } else { wait > RETRY }, "{wait:?}");
            let count = |name: &str| teller.known.get(name).map(|known| (known.count, known.tries));
            assert_eq!((count("b"), count("c")), (Some((1, 0)), Some((1, 0))));
            assert_eq!(count("a"), Some((0, tries % TRIES_MAX)));
            teller.known.get_mut("a").unwrap().due = MonoNs(0);
        }
        assert_eq!(health.read().events_refused, 1);
        assert_eq!(server.requests().len(), 2 + TRIES_MAX as usize);
        drop(tell);
    }

    #[test]
    fn one_that_the_server_did_not_get_is_never_given_up_and_waits_behind_the_others() {
        let away = || Err(kube::Error::LinesCodecMaxLineLengthExceeded);
        let now = MonoNs(1_000_000_000);
        let mut known = Known::default();
        for tries in 1..10 {
            known = known.after(&away(), now);
            assert_eq!(known, Known { count: 0, tries, due: now + RETRY });
        }
        assert_eq!(known.after(&Ok(7), now), Known { count: 7, tries: 0, due: now + AGAIN });
        assert_eq!(known.after(&Err(refusal(403)), now), Known { count: 0, tries: 0, due: now + AGAIN });
    }

    #[test]
    fn what_is_told_has_a_name_of_its_own_and_the_same_for_every_agent() {
        let objects = objects(
            "kind: Ingress\nmetadata: {name: shop, uid: one}\nspec: {}\n---\nkind: TLSOption\nmetadata: {name: strict}",
        );
        let problem = |kind, name: &str, path: &str, message: &str| Problem {
            object: Object { kind, key: Key::new("default", name) },
            path: path.to_owned(),
            message: message.to_owned(),
        };
        let problems = [
            problem("Ingress", "shop", "spec.rules[0]", "is wrong"),
            problem("Ingress", "shop", "spec.rules[1]", "is wrong"),
            problem("Ingress", "shop", "spec.rules[0]", "is wrong"),
            problem("TLSOption", "strict", "", &"é".repeat(4000)),
            problem("Ingress", "gone", "", "is wrong"),
        ];
        let all = told(&objects, &problems);
        assert_eq!(all.len(), 3);
        let notes: Vec<_> = all.iter().map(|told| told.note.as_str()).collect();
        assert!(notes.contains(&"spec.rules[0]: is wrong") && notes.contains(&"spec.rules[1]: is wrong"), "{notes:?}");
        assert!(all.iter().all(|told| told.name.len() <= 253 && told.note.len() <= NOTE_BYTES));
        let shop = all.iter().find(|told| told.note == "spec.rules[0]: is wrong").unwrap();
        assert_eq!(shop.name.strip_prefix("shop.").map(str::len), Some(16));
        let event = shop.event("me");
        assert_eq!(event.regarding.as_ref().unwrap().uid.as_deref(), Some("one"));
        let [first, ..] = problems;
        assert_eq!(told(&objects, &[first]).first(), Some(shop));
    }
}
