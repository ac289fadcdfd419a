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

/// Problems that are told of; of more than that nobody reads the events, and the log and the dashboard have all.
const MOST: usize = 500;
/// The API server keeps events for an hour.
const AGAIN: Duration = Duration::from_secs(30 * 60);
/// After one that failed.
const RETRY: Duration = Duration::from_secs(10);
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
    note: String,
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

/// An event that was written.
#[derive(Debug, Clone, Copy)]
struct Written {
    at: MonoNs,
    count: i32,
}

/// Writes events, for one who leads.
pub struct Teller {
    client: Client,
    told: watch::Receiver<Arc<[Told]>>,
    instance: String,
    pace: Pace,
    /// By name, of those that there still are.
    written: HashMap<String, Written>,
    /// The last one failed, which was said.
    failed: bool,
}

impl std::fmt::Debug for Teller {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Teller").field("written", &self.written.len()).finish_non_exhaustive()
    }
}

impl Teller {
    /// `instance` is our name.
    #[must_use]
    pub fn new(client: Client, told: watch::Receiver<Arc<[Told]>>, instance: &str) -> Self {
        // What the API takes at most.
        let instance = instance.chars().take(128).collect();
        let pace = Pace::new(PER_SECOND, BURST);
        Self { client, told, instance, pace, written: HashMap::new(), failed: false }
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

    /// What is due; gives when the next one is.
    async fn tell_all(&mut self) -> Duration {
        let all = Arc::clone(&self.told.borrow_and_update());
        self.written.retain(|name, _| all.binary_search_by(|told| told.name.cmp(name)).is_ok());
        for told in all.iter() {
            let now = MonoNs::now();
            let before = self.written.get(&told.name).copied();
            if before.is_some_and(|before| now < before.at + AGAIN) {
                continue;
            }
            if self.told.has_changed().unwrap_or(true) {
                return Duration::ZERO;
            }
            sleep(self.pace.take(now)).await;
            match self.tell(told, before).await {
                Ok(count) => {
                    self.failed = false;
                    self.written.insert(told.name.clone(), Written { at: MonoNs::now(), count });
                }
                Err(error) => {
                    if !std::mem::replace(&mut self.failed, true) {
                        warn!(error = causes(&error), "an event cannot be written; it is tried again");
                    }
                    return RETRY;
                }
            }
        }
        let next = self.written.values().map(|written| written.at + AGAIN).min();
        let now = MonoNs::now();
        next.map_or(AGAIN, |next| Duration::from_nanos(next.0.saturating_sub(now.0)))
    }

    /// Writes one event, or that it goes on; gives how often it was told.
    async fn tell(&self, told: &Told, before: Option<Written>) -> Result<i32, kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), told.namespace());
        if before.is_none() {
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
        let count = before.map_or(1, |before| before.count).saturating_add(1);
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
    use super::super::objects::Key;
    use super::super::parts::Object;
    use super::super::translate::tests::objects;
    use super::*;

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
