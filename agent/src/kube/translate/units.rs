//! What is translated by itself, and what of it is translated again: after a change those alone who looked at what is another
//! now. What all of them make is kept by [`super::whole`].

use std::collections::BTreeSet;
use std::sync::{Arc, LazyLock};

use k8s_openapi::api::networking::v1::Ingress;
use kube::core::DynamicObject;

use super::backends::{Backends, Here, Slices};
use super::collected::Collected;
use super::gateway::Around;
use super::ingress::{self, Classes};
use super::rules::Rules;
use super::settle::settled;
use super::transports::Transports;
use super::view::{Found, Read, View};
use super::whole::{Fresh, Whole};
use super::{Out, addresses, crd, gateway, zone};
use crate::config::model::{Kubernetes, KubernetesProvider};
use crate::kube::objects::{Key, Marks, Objects, Set};
use crate::kube::parts::{Object, Parts};
use crate::kube::refusals::Refused;

/// Objects that are read together: which Ingress objects are ours,
static CLASSES: LazyLock<Arc<Object>> = LazyLock::new(|| together("IngressClass"));
/// TLS options and stores,
pub(super) static OPTIONS: LazyLock<Arc<Object>> = LazyLock::new(|| together("TLSOption"));
/// and all of the Gateway API but routes.
pub(super) static GATEWAYS: LazyLock<Arc<Object>> = LazyLock::new(|| together("Gateway"));
/// What Gateways and policies say of all routes together.
static TOLD: LazyLock<Arc<Object>> = LazyLock::new(|| together("told"));
/// What is wrong with chains of Middlewares.
static CHAINS: LazyLock<Arc<Object>> = LazyLock::new(|| together("chains"));
/// What may not be read.
static REFUSED: LazyLock<Arc<Object>> = LazyLock::new(|| together("refused"));

fn together(kind: &'static str) -> Arc<Object> {
    Arc::new(Object { kind, key: Key::new("", "") })
}

/// In this order: who looks at what others found comes behind them.
pub(super) const PHASES: [&str; 7] =
    ["IngressClass", "TLSOption", crd::MIDDLEWARE, "Gateway", "Ingress", "IngressRoute", "HTTPRoute"];

/// Reads objects again and again; what did not change costs nothing.
#[derive(Debug, Default)]
pub struct Translator {
    makers: Makers,
    slices: Slices,
    found: Found,
    whole: Whole,
    marks: Marks,
    framed: Framed,
    was_whole: bool,
}

/// What was read of rules and specs.
#[derive(Debug, Default)]
struct Makers {
    rules: Rules,
    crd: crd::Known,
    gateway: gateway::Known,
    transports: Transports,
}

/// What everything is made in: when it is another, so is everything.
#[derive(Debug, Default, PartialEq)]
struct Framed {
    settings: Kubernetes,
    here: Here,
    around: Around,
    /// Where clients reach us, for statuses of Gateways,
    addresses: Vec<(String, String)>,
    /// and of Ingress objects.
    said: ingress::Said,
    refused: Refused,
}

type Due = BTreeSet<Arc<Object>>;

impl Translator {
    /// All parts that the objects ask for, in the order of their names. What is as it was the last time is the same `Arc`.
    pub fn translate(
        &mut self,
        objects: &Objects,
        settings: &Kubernetes,
        node: Option<&str>,
        around: &Around,
    ) -> Parts {
        let framed = framed(objects, settings, node, around, &self.framed.said);
        let changed = objects.changed(&mut self.marks).filter(|_| framed == self.framed);
        self.was_whole = changed.is_none();
        self.framed = framed;
        let has_hosts = |one: &Object| !matches!(one.kind, "Service" | "EndpointSlice");
        if changed.as_ref().is_none_or(|changed| changed.iter().any(has_hosts)) {
            self.whole.forget_owners();
        }
        let mut due = match changed {
            Some(changed) => self.concerned(objects, changed),
            None => {
                self.slices = Slices::of_all(objects);
                self.whole.units().cloned().chain(all(objects)).collect()
            }
        };
        let mut fresh = Fresh::new();
        for phase in PHASES {
            let now: Vec<_> = due.iter().filter(|unit| unit.kind == phase).cloned().collect();
            for unit in now {
                due.extend(self.make(objects, &unit, &mut fresh));
            }
        }
        let defaults = self.whole.renew_defaults(objects, &fresh);
        self.make_all(objects, defaults, &mut fresh);
        self.whole.want(&mut fresh);
        let due = self.whole.renew_names(objects, &fresh);
        let mut more = Fresh::new();
        let due = due.into_iter().filter(|unit| !fresh.contains_key(unit)).collect();
        self.make_all(objects, due, &mut more);
        self.whole.want(&mut more);
        fresh.append(&mut more);
        let is_framed_anew = fresh.contains_key(&*GATEWAYS);
        for (unit, (mut collected, mut reads)) in fresh {
            let view = View::new(objects, &self.slices, &self.found);
            let settled = settled(&unit, &mut collected, &self.whole, &view, &self.framed.around);
            reads.extend(view.into_reads());
            self.whole.take(&unit, collected, settled, reads);
            if matches!(of(objects, &unit), Of::Nothing) {
                self.whole.forget(&unit);
            }
        }
        if self.whole.is_counted_anew() || is_framed_anew {
            self.tell();
        }
        self.whole.complain(&CHAINS, true, self.whole.chained.problems.clone());
        self.whole.complain(&REFUSED, true, objects.refused.problems().collect());
        self.makers.forget_unused();
        self.whole.parts(objects)
    }

    /// Whether the last translation read all objects.
    #[must_use]
    pub fn was_whole(&self) -> bool {
        self.was_whole
    }

    /// Who is to be made again when these objects are others.
    fn concerned(&mut self, objects: &Objects, changed: Vec<Object>) -> Due {
        let mut due = Due::new();
        let whole = &self.whole;
        let mut read = |read: Read| due.extend(whole.readers(&read).cloned());
        let mut units = Vec::new();
        for object in changed {
            if object.kind == "EndpointSlice" {
                let services = self.slices.renew(objects, &object.key);
                services.into_iter().flatten().for_each(|service| read(Read::Slices(service)));
                continue;
            }
            read(Read::All(object.kind));
            if matches!(object.kind, crd::MIDDLEWARE | "Ingress" | "IngressRoute" | "HTTPRoute") {
                units.push(object.clone());
            }
            read(Read::Object(object));
        }
        due.extend(units.into_iter().map(Arc::new));
        due
    }

    fn make_all(&mut self, objects: &Objects, due: Due, fresh: &mut Fresh) {
        for unit in due {
            if !fresh.contains_key(&unit) {
                self.make(objects, &unit, fresh);
            }
        }
    }

    /// Makes a unit again. Gives who looked at what it found, where that is another.
    fn make(&mut self, objects: &Objects, unit: &Arc<Object>, fresh: &mut Fresh) -> Due {
        let (framed, view) = (&self.framed, View::new(objects, &self.slices, &self.found));
        let Makers { rules, crd: known, gateway: gateways, transports } = &mut self.makers;
        let mut out = Out { view: &view, rules, parts: Collected::default() };
        let mut classes = Classes::default();
        let mut frame = gateway::Frame::default();
        if let Some(settings) = served(&framed.settings, unit) {
            let backends = Backends::new(&view, &framed.here, settings.allow_external_names);
            match of(objects, unit) {
                Of::Classes => classes = Classes::new(view.ingress_classes(), settings),
                Of::Options => crd::tls::translate(&mut out, settings),
                Of::Gateways => {
                    let (addresses, pool) = (framed.addresses.clone(), settings.address_pool.clone());
                    let around = Around { addresses, pool, ..framed.around.clone() };
                    frame = gateway::frame(&mut out, gateways, settings, &around);
                }
                Of::Middleware(one) => crd::middlewares::translate(&mut out, &mut known.middlewares, settings, one),
                Of::Ingress(one) => {
                    ingress::translate(&mut out, transports, &backends, settings, &framed.said, one);
                }
                Of::IngressRoute(one) => crd::translate(&mut out, known, transports, &backends, settings, one),
                Of::HttpRoute(one) => gateway::routes::translate(&mut out, gateways, &backends, one),
                Of::Nothing => {}
            }
        }
        let parts = out.parts;
        let reads = view.into_reads();
        let due = match unit.kind {
            "IngressClass" => self.found_classes(classes),
            "TLSOption" => self.found_options(&parts),
            crd::MIDDLEWARE => self.found_middleware(unit, &parts),
            "Gateway" => self.found_gateways(frame),
            _ => Due::new(),
        };
        fresh.insert(Arc::clone(unit), (parts, reads));
        due
    }

    fn found_classes(&mut self, classes: Classes) -> Due {
        let is_another = self.found.classes != classes;
        self.found.classes = classes;
        self.readers(Some(Read::Classes).filter(|_| is_another))
    }

    fn found_options(&mut self, parts: &Collected) -> Due {
        let (before, now) = (&self.found.own_defaults, &parts.own_defaults);
        let others = before.keys().chain(now.keys()).filter(|namespace| before.get(*namespace) != now.get(*namespace));
        let reads: Vec<_> = others.cloned().map(Read::OwnDefault).collect();
        self.found.own_defaults.clone_from(now);
        self.readers(reads)
    }

    fn found_middleware(&mut self, unit: &Object, parts: &Collected) -> Due {
        let key = crd::called(crd::MIDDLEWARE, &unit.key.namespace, &unit.key.name);
        let is_another = match parts.middlewares.contains_key(&key) || parts.chains.contains_key(&key) {
            true => self.found.usable.insert(key.clone()),
            false => self.found.usable.remove(&key),
        };
        self.readers(Some(Read::Usable(key)).filter(|_| is_another))
    }

    fn found_gateways(&mut self, (gateways, grants, policies): gateway::Frame) -> Due {
        let found = &self.found;
        let pairs = || gateways.iter().zip(&found.gateways);
        let is_alike = gateways.len() == found.gateways.len() && pairs().all(|(a, b)| a.leads_alike(b));
        let mut reads: Vec<_> = policies.differing(&found.policies).cloned().map(Read::Policy).collect();
        reads.extend(Some(Read::Gateways).filter(|_| !is_alike));
        reads.extend(Some(Read::Grants).filter(|_| grants != found.grants));
        (self.found.gateways, self.found.grants, self.found.policies) = (gateways, grants, policies);
        self.readers(reads)
    }

    fn readers(&self, reads: impl IntoIterator<Item = Read>) -> Due {
        reads.into_iter().flat_map(|read| self.whole.readers(&read).cloned().collect::<Vec<_>>()).collect()
    }

    /// Says what hangs on all routes together.
    fn tell(&mut self) {
        let (Found { gateways, policies, .. }, whole) = (&self.found, &self.whole);
        let attached = |gateway, listener| whole.attached(gateway, listener);
        let (statuses, problems) = gateway::statuses(gateways, policies, &attached, &|policy| whole.followers(policy));
        self.whole.say(&TOLD, statuses);
        self.whole.complain(&TOLD, false, problems);
    }
}

impl Makers {
    fn forget_unused(&mut self) {
        self.rules.forget_unused();
        self.crd.forget_unused();
        self.transports.forget_unused();
        self.gateway.forget_unused();
    }
}

/// What a unit is made of.
enum Of<'o> {
    Classes,
    Options,
    Gateways,
    Middleware((&'o Key, &'o Arc<DynamicObject>)),
    Ingress((&'o Key, &'o Ingress)),
    IngressRoute((&'o Key, &'o Arc<DynamicObject>)),
    HttpRoute((&'o Key, &'o Arc<DynamicObject>)),
    /// It is gone.
    Nothing,
}

fn of<'o>(objects: &'o Objects, unit: &'o Object) -> Of<'o> {
    let key = &unit.key;
    let dynamic = || objects.dynamic(unit.kind, &key.namespace, &key.name).map(|object| (key, object));
    match unit.kind {
        "IngressClass" => Of::Classes,
        "TLSOption" => Of::Options,
        "Gateway" => Of::Gateways,
        crd::MIDDLEWARE => dynamic().map_or(Of::Nothing, Of::Middleware),
        "Ingress" => {
            let ingress = objects.ingresses.get(&key.namespace, &key.name);
            ingress.map_or(Of::Nothing, |ingress| Of::Ingress((key, ingress)))
        }
        "IngressRoute" => dynamic().map_or(Of::Nothing, Of::IngressRoute),
        "HTTPRoute" => dynamic().map_or(Of::Nothing, Of::HttpRoute),
        _ => Of::Nothing,
    }
}

/// All units that there are to be.
fn all(objects: &Objects) -> impl Iterator<Item = Arc<Object>> {
    let unit = |kind: &'static str| move |(key, _): (&Key, _)| Arc::new(Object { kind, key: key.clone() });
    let dynamic = |kind| objects.all(kind).into_iter().flat_map(Set::iter).map(move |(key, _)| unit(kind)((key, ())));
    let ingresses = objects.ingresses.iter().map(move |(key, _)| unit("Ingress")((key, ())));
    let routes = dynamic(crd::MIDDLEWARE).chain(ingresses).chain(dynamic("IngressRoute")).chain(dynamic("HTTPRoute"));
    [&CLASSES, &OPTIONS, &GATEWAYS].into_iter().map(|together| Arc::clone(together)).chain(routes)
}

/// Whose settings hold for a unit; `None`: nobody looks at it.
fn served<'s>(settings: &'s Kubernetes, unit: &Object) -> Option<&'s KubernetesProvider> {
    let provider = match unit.kind {
        "IngressClass" | "Ingress" => settings.ingress.as_ref(),
        "TLSOption" | crd::MIDDLEWARE | "IngressRoute" => settings.crd.as_ref(),
        _ => settings.gateway.as_ref(),
    };
    provider.filter(|provider| is_together(unit) || provider.serves(&unit.key.namespace))
}

fn is_together(unit: &Object) -> bool {
    unit.key.name.is_empty()
}

fn framed(
    objects: &Objects,
    settings: &Kubernetes,
    node: Option<&str>,
    around: &Around,
    said: &ingress::Said,
) -> Framed {
    let here = Here { node: node.map(str::to_owned), zone: node.and_then(|node| zone(objects, node)) };
    let [of_ingresses, addresses] = [&settings.ingress, &settings.gateway].map(|provider| {
        provider.as_ref().map(|provider| addresses(objects, &provider.address, around, node)).unwrap_or_default()
    });
    // A Service that is not there may not have been read.
    let published = settings.ingress.as_ref().and_then(|provider| provider.address.service.as_ref());
    let is_known = published.is_some_and(|(namespace, name)| objects.services.get(namespace, name).is_some());
    let (around, refused) = (around.clone(), objects.refused.clone());
    Framed { settings: settings.clone(), here, around, addresses, said: said.now(of_ingresses, is_known), refused }
}
