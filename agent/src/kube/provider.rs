//! The task that owns the objects: takes news as they come, translates what there is, and publishes it. What the proxy
//! makes of it is `app`'s; what was published stays for as long as nothing better is known.

use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::info;

use super::events::{self, Teller, Told};
use super::lease::{self, Lead, Leading};
use super::nodes::{self, Addresses, Agents};
use super::objects::{Key, Objects};
use super::parts::{Parts, Problem};
use super::status::{self, Lacking, Write, Writer};
use super::translate::{Around, Translator};
use super::watch::{self as watches, Health, News, Wanted};
use crate::config::model::{Kubernetes, StatusWriter};
use crate::litter::Litter;
use crate::probes::memory;

/// News taken at once before a translation: the rest waits for the next.
const BATCH: usize = 4096;

/// Who we are among all agents.
#[derive(Debug, Clone)]
pub struct Who {
    /// Ours alone.
    pub name: String,
    /// Where our pod is, and with it the Lease of who writes statuses.
    pub namespace: String,
    /// Which Lease, and who the others are.
    pub status: StatusWriter,
}

/// The handle: what the cluster asks for at this moment.
#[derive(Debug)]
pub struct Provider {
    parts: watch::Receiver<Arc<Parts>>,
    around: watch::Sender<Around>,
}

impl Provider {
    /// The handle, and the task for its owner to run.
    pub fn new(
        settings: Kubernetes,
        client: Client,
        node: Option<String>,
        who: Who,
        around: Around,
        health: Arc<Health>,
    ) -> (Self, impl Future<Output = ()> + Send + 'static) {
        let (around, around_seen) = watch::channel(around);
        let (publish, parts) = watch::channel(Arc::new(Parts::default()));
        let wanted = Wanted::of(&settings, node.clone());
        let (mut tasks, news) = watches::start(&client, &wanted, &health);
        let (writes, writes_seen) = watch::channel(Arc::from([]));
        let (events, events_seen) = watch::channel(Arc::from([]));
        let (lead, leads) = watch::channel(false);
        let nodes = Some(who.status.pod_selector).filter(|selector| !selector.is_empty()).map(|selector| {
            let (told, nodes) = watch::channel(None);
            let agents = Agents { namespace: who.namespace.clone(), selector };
            tasks.spawn(nodes::follow(client.clone(), agents, leads.clone(), told));
            nodes
        });
        let lease = Key::new(&who.namespace, &lease::name(who.status.lease.as_deref(), &settings));
        tasks.spawn(lease::stand(client.clone(), lease, who.name.clone(), lead));
        tasks.spawn(Teller::new(client.clone(), events_seen, &who.name, Arc::clone(&health)).run());
        tasks.spawn(Writer::new(client, writes_seen, Arc::clone(&health)).run());
        let task = Task {
            news,
            _tasks: tasks,
            health,
            objects: Objects::default(),
            translator: Translator::default(),
            settings,
            node,
            around: around_seen,
            nodes,
            publish,
            lead: Lead::new(leads),
            writes,
            events,
            told_of: None,
            unopened: Vec::new(),
            lacking: Lacking::default(),
            published: false,
            litter: Litter::new(memory::give_back),
        };
        (Self { parts, around }, task.run())
    }

    /// What the cluster asks for.
    #[must_use]
    pub fn parts(&self) -> Arc<Parts> {
        Arc::clone(&self.parts.borrow())
    }

    /// Says what Gateways stand in from now on.
    pub fn stand_in(&self, around: Around) {
        self.around.send_if_modified(|old| {
            let changed = *old != around;
            *old = around;
            changed
        });
    }

    /// Waits for parts that differ from those last waited for. Cancel-safe.
    pub async fn changed(&mut self) {
        if self.parts.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Waits until everything is known once, but not longer than `limit`: for a start without early 404s.
    pub async fn settle(&mut self, limit: Duration) -> bool {
        timeout(limit, self.parts.changed()).await.is_ok()
    }
}

struct Task {
    news: mpsc::Receiver<News>,
    _tasks: JoinSet<()>,
    health: Arc<Health>,
    objects: Objects,
    translator: Translator,
    settings: Kubernetes,
    node: Option<String>,
    around: watch::Receiver<Around>,
    /// Where clients reach all agents; `None`: we know of our own node alone.
    nodes: Option<watch::Receiver<Addresses>>,
    publish: watch::Sender<Arc<Parts>>,
    /// Whether we are the one who writes statuses.
    lead: Lead,
    writes: watch::Sender<Arc<[Arc<Write>]>>,
    events: watch::Sender<Arc<[Told]>>,
    /// What the events are of, and whether of all.
    told_of: Option<(Arc<Parts>, bool)>,
    /// Why ports cannot be opened, as the parts have it: on this node, of which no other agent knows.
    unopened: Vec<String>,
    lacking: Lacking,
    published: bool,
    litter: Litter,
}

impl Task {
    async fn run(mut self) {
        let throttle = self.settings.throttle();
        loop {
            let mut changed = tokio::select! {
                first = self.news.recv() => match first {
                    Some(first) => first(&mut self.objects),
                    None => return,
                },
                changed = self.around.changed() => match changed {
                    Ok(()) => true,
                    Err(_) => return,
                },
                changed = changed(&mut self.nodes) => match changed {
                    true => true,
                    false => return,
                },
                turned = self.lead.changed() => match turned {
                    true => false,
                    false => return,
                },
                () = self.litter.given_back() => continue,
            };
            let mut taken = 1;
            while taken < BATCH
                && let Ok(more) = self.news.try_recv()
            {
                changed |= more(&mut self.objects);
                taken += 1;
            }
            // Half of what there is would take away routes that are served.
            if !self.health.is_ready() {
                continue;
            }
            if changed {
                self.translate();
            }
            self.write_back();
            if self.publish.is_closed() {
                return;
            }
            if !throttle.is_zero() {
                sleep(throttle).await;
            }
        }
    }

    /// Gives the writer what statuses lack, where that is ours to write.
    fn write_back(&mut self) {
        let Leading { leads, turned } = self.lead.look();
        if turned {
            // Another one may have written meanwhile.
            (self.lacking, self.told_of) = (Lacking::default(), None);
        }
        // Not with our own node's address where all nodes' will be known in a moment, or are and were not translated yet.
        let is_unseen = |nodes: &watch::Receiver<Addresses>| nodes.has_changed().unwrap_or(false);
        let is_early = self.nodes.as_ref().is_some_and(|nodes| is_unseen(nodes) || nodes.borrow().is_none());
        if !leads || is_early {
            // What could not be written is no longer ours to write.
            self.writes.send_if_modified(|writes| !std::mem::replace(writes, Arc::from([])).is_empty());
            self.tell(false);
            return;
        }
        let parts = Arc::clone(&self.publish.borrow());
        let writes = self.lacking.renew(&self.objects, &parts.statuses, &status::wall_time());
        self.tell(true);
        if let Some(writes) = writes {
            self.writes.send_replace(writes);
        }
    }

    /// Gives the teller all problems, or those that this node alone has.
    fn tell(&mut self, all: bool) {
        let parts = Arc::clone(&self.publish.borrow());
        if self.told_of.as_ref().is_some_and(|(before, had)| *had == all && Arc::ptr_eq(before, &parts)) {
            return;
        }
        let one = |problem: &Problem| match self.of_this_node(problem) {
            None if all => Some(problem.clone()),
            local => local,
        };
        let problems: Vec<_> = parts.all_problems().filter_map(one).collect();
        let told = events::told(&self.objects, &problems);
        self.events.send_if_modified(|before| {
            let changed = **before != *told;
            if changed {
                *before = told.into();
            }
            changed
        });
        self.told_of = Some((parts, all));
    }

    /// The problem with the node's name, where it is a listener's whose port cannot be opened here: others may have it open.
    fn of_this_node(&self, problem: &Problem) -> Option<Problem> {
        let is_ours =
            matches!(problem.object.kind, "Gateway" | "ListenerSet") && self.unopened.contains(&problem.message);
        let node = self.node.as_deref().unwrap_or("the node of this agent");
        is_ours.then(|| Problem { message: format!("on {node}: {}", problem.message), ..problem.clone() })
    }

    fn translate(&mut self) {
        let mut around = self.around.borrow_and_update().clone();
        self.unopened = around.unopened.iter().map(|(_, message)| message.clone()).collect();
        let nodes = self.nodes.as_mut().and_then(|nodes| nodes.borrow_and_update().clone());
        around.addresses = nodes.map(|nodes| nodes.to_vec()).unwrap_or_default();
        let parts = self.translator.translate(&self.objects, &self.settings, self.node.as_deref(), &around);
        let is_whole = self.translator.was_whole();
        self.health.translated(is_whole);
        let before = Arc::clone(&self.publish.borrow());
        if before.routers.is_empty() && !parts.routers.is_empty() {
            info!(routers = parts.routers.len(), services = parts.services.len(), "routes from the cluster");
        }
        // Nobody is woken for nothing, but for the first: somebody waits for it.
        if !std::mem::replace(&mut self.published, true) || !parts.is_same(&before) {
            self.publish.send_replace(Arc::new(parts));
        }
        if is_whole {
            self.litter.drop_some();
        }
    }
}

/// Waits until it is another; for ever where there is nothing to wait for. `false`: nobody says so any more.
async fn changed(nodes: &mut Option<watch::Receiver<Addresses>>) -> bool {
    match nodes {
        Some(nodes) => nodes.changed().await.is_ok(),
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::model::KubernetesProvider;
    use crate::kube::parts::{Object, Status};
    use crate::kube::translate::tests::objects;

    /// The task without the tasks around it, and an Ingress whose status lacks what it should say, with a problem.
    fn task() -> (Task, watch::Sender<bool>) {
        let mut objects = Objects::default();
        let ingress = json!({"metadata": {"name": "i", "namespace": "default", "resourceVersion": "1"}});
        objects.ingresses.put(serde_json::from_value(ingress).unwrap());
        let object = Object { kind: "Ingress", key: Key::new("default", "i") };
        let body = json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}});
        let status = Status::new(object.clone(), 0, Vec::new(), body);
        let problem = Problem { object, path: String::new(), message: "is bad".to_owned() };
        let parts = Parts { statuses: vec![Arc::new(status)], problems: vec![problem], ..Parts::default() };
        let (leads, led) = watch::channel(false);
        let task = Task {
            news: mpsc::channel(1).1,
            _tasks: JoinSet::new(),
            health: Arc::default(),
            objects,
            translator: Translator::default(),
            settings: Kubernetes::default(),
            node: None,
            around: watch::channel(Around::default()).1,
            nodes: None,
            publish: watch::channel(Arc::new(parts)).0,
            lead: Lead::new(led),
            writes: watch::channel(Arc::from([])).0,
            events: watch::channel(Arc::from([])).0,
            told_of: None,
            unopened: Vec::new(),
            lacking: Lacking::default(),
            published: true,
            litter: Litter::new(|| true),
        };
        (task, leads)
    }

    #[test]
    fn who_leads_again_writes_all_again_and_who_does_not_has_nothing_to_write() {
        let (mut task, leads) = task();
        let mut step = |leading: &[bool]| {
            for leading in leading {
                leads.send_replace(*leading);
            }
            let mut seen = task.writes.subscribe();
            seen.mark_unchanged();
            task.write_back();
            (task.writes.borrow().len(), task.events.borrow().len(), seen.has_changed().unwrap())
        };
        assert_eq!(step(&[]), (0, 0, false));
        assert_eq!(step(&[true]), (1, 1, true));
        assert_eq!(step(&[]), (1, 1, false));
        // It led, did not, and leads: what it had to write is told anew.
        assert_eq!(step(&[false, true]), (1, 1, true));
        assert_eq!(step(&[false]), (0, 0, true));
        assert_eq!(step(&[true]), (1, 1, true));
    }

    #[test]
    fn nothing_is_written_before_it_is_known_where_clients_reach_all_agents() {
        let (mut task, leads) = task();
        let (tell, nodes) = watch::channel(None);
        task.nodes = Some(nodes);
        leads.send_replace(true);
        task.write_back();
        assert_eq!((task.writes.borrow().len(), task.events.borrow().len()), (0, 0));
        tell.send_replace(Some(Arc::from([("IPAddress".to_owned(), "192.0.2.1".to_owned())])));
        // What there is to write was made before.
        task.write_back();
        assert_eq!((task.writes.borrow().len(), task.events.borrow().len()), (0, 0));
        task.nodes.as_mut().unwrap().mark_unchanged();
        task.write_back();
        assert_eq!((task.writes.borrow().len(), task.events.borrow().len()), (1, 1));
    }

    // In a runtime, since what was translated before is given back by a timer.
    #[tokio::test]
    async fn every_agent_tells_of_a_port_that_its_own_node_cannot_open_and_the_leader_of_all() {
        let (mut task, leads) = task();
        task.objects = objects(
            "kind: GatewayClass\nmetadata: {name: w}\nspec: {controllerName: wayspan.io/gateway-controller}\n---\n\
             kind: Gateway\nmetadata: {name: g, namespace: default}\nspec: {gatewayClassName: w, listeners: [\
             {name: a, port: 81, protocol: HTTP}, {name: b, port: 82, protocol: TCP}]}\n",
        );
        task.settings.gateway = Some(KubernetesProvider { open_ports: true, ..KubernetesProvider::default() });
        let (stand_in, around) = watch::channel(Around::default());
        task.around = around;
        let mut step = |node: &str, leading: bool, unopened: &[(&str, &str)]| {
            let unopened = unopened.iter().map(|(name, why)| ((*name).to_owned(), (*why).to_owned()));
            stand_in.send_replace(Around { unopened: unopened.collect(), ..Around::default() });
            leads.send_replace(leading);
            task.node = Some(node.to_owned());
            task.translate();
            task.write_back();
            let told = task.events.borrow();
            let mut notes: Vec<String> = told.iter().map(|told| told.note.clone()).collect();
            notes.sort();
            (notes, task.writes.borrow().len())
        };
        let in_use = [("gateway-81", "cannot listen on [::]:81: in use")];
        let own = |node: &str| format!("spec.listeners[a]: on {node}: cannot listen on [::]:81: in use");
        assert_eq!(step("one", false, &[]), (vec![], 0));
        assert_eq!(step("one", false, &in_use), (vec![own("one")], 0));
        let (notes, writes) = step("one", true, &in_use);
        assert_eq!((notes.len(), notes.first(), writes > 0), (2, Some(&own("one")), true));
        assert_eq!(step("one", false, &[]), (vec![], 0));
    }
}
