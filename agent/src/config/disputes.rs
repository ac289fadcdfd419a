//! Routers that want different TLS options for one host at one entry point. A connection has one set, chosen before its first
//! request. The host is whose it is: of the configuration's own routers, else of the holder whose router for it is the oldest. Its
//! options hold, and whoever else names the host is told, and served under them. Where a host's own routers disagree, the
//! connection has the default options, as in Traefik. Who asks clients for certificates is not reached without, or whoever
//! names the same host could open a door that is closed.

use std::collections::{BTreeMap, HashMap, HashSet};

use wayspan_proxy::tls::hosts;

use super::model::{ClientAuth, Dynamic, EntryPoint, Router};

/// A router that does not get the options that it wants for a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dispute {
    /// The place of the entry point.
    pub entry_point: usize,
    /// Who.
    pub router: String,
    /// Who wants others.
    pub other: String,
    /// For this host.
    pub host: String,
    /// The host is the other's, and so is the choice.
    pub is_others: bool,
    /// The options that connections for the host have; `None`: the default ones.
    pub held: Option<String>,
    /// Options without which the router is not served all the same: nobody has them here, so its requests get 421.
    pub insists: Option<String>,
}

impl Dispute {
    /// For its owner.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { other, host, .. } = self;
        let refused =
            if self.insists.is_none() { "" } else { ", and what asks for client certificates is answered with 421" };
        if !self.is_others {
            return format!(
                "`{other}` wants others for `{host}`, and a connection has one set of TLS options: the default ones{refused}; name \
                 the same"
            );
        }
        let held = self.held.as_deref().unwrap_or("default");
        let is_lost = self.insists.is_some() && self.insists == self.held;
        let refused = if is_lost { ", and since they cannot be used requests are answered with 421" } else { refused };
        format!(
            "`{other}` had `{host}` first, and its TLS options `{held}` hold for that host{refused}; name the same, or a host that \
             is nobody else's"
        )
    }
}

/// The options of a router at an entry point; the outer `None`: it takes no TLS there.
pub(super) fn options<'d>(router: &'d Router, entry_point: &'d EntryPoint) -> Option<Option<&'d str>> {
    let tls = router.tls.as_ref().or(entry_point.tls.as_ref())?;
    Some(tls.options.as_deref().or(router.default_options.as_deref()))
}

/// Each router once for each of its hosts at each entry point, in their order.
#[must_use]
pub fn disputes(dynamic: &Dynamic) -> Vec<Dispute> {
    let mut all = Vec::new();
    let mut ages = None;
    for (at, entry_point) in dynamic.entry_points.iter().enumerate() {
        let here = dynamic.routers.iter().filter(|router| entry_point.takes(router));
        let secured: Vec<_> =
            here.filter_map(|router| Some((router.as_ref(), options(router, entry_point)?))).collect();
        // Rules are not taken apart where nobody can disagree.
        let different: HashSet<_> = secured.iter().map(|(_, options)| options).collect();
        if different.len() > 1 {
            let ages = ages.get_or_insert_with(|| Ages::of(dynamic));
            all.extend(Here { dynamic, at, secured: &secured, ages }.disputes());
        }
    }
    all
}

/// Whose a router is; `None`: the configuration's own.
fn holder(router: &Router) -> Option<&str> {
    router.holder.as_ref().map(|holder| &*holder.name)
}

/// By host, since when each holder has a router for it, of whatever sort, at whatever entry point.
struct Ages<'d>(HashMap<String, HashMap<&'d str, i64>>);

impl<'d> Ages<'d> {
    fn of(dynamic: &'d Dynamic) -> Self {
        let mut all: HashMap<String, HashMap<&str, i64>> = HashMap::new();
        for router in &dynamic.routers {
            let Some(holder) = &router.holder else { continue };
            for host in hosts(&router.rule) {
                let since = all.entry(host).or_default().entry(&*holder.name).or_insert(holder.since);
                *since = holder.since.min(*since);
            }
        }
        Self(all)
    }

    /// Of several holders the owner has the least: the configuration's own, else the oldest, of equals the first by name.
    fn rank<'r>(&self, host: &str, router: &'r Router) -> Option<(i64, &'r str)> {
        let holder = holder(router)?;
        let since = self.0.get(host).and_then(|all| all.get(holder)).copied();
        Some((since.unwrap_or(i64::MAX), holder))
    }
}

/// Who takes TLS at one entry point, with the options that it wants.
struct Here<'h, 'd> {
    dynamic: &'d Dynamic,
    at: usize,
    secured: &'h [(&'d Router, Option<&'d str>)],
    ages: &'h Ages<'d>,
}

impl Here<'_, '_> {
    fn disputes(&self) -> impl Iterator<Item = Dispute> {
        let mut by_host: HashMap<String, Vec<usize>> = HashMap::new();
        for (place, (router, _)) in self.secured.iter().enumerate() {
            for host in hosts(&router.rule) {
                by_host.entry(host).or_default().push(place);
            }
        }
        let mut all = BTreeMap::new();
        for (host, places) in by_host {
            self.about(&host, &places, &mut all);
        }
        all.into_values()
    }

    /// What the routers at these places do not get for their host.
    fn about(&self, host: &str, places: &[usize], all: &mut BTreeMap<(usize, String), Dispute>) {
        let of = |place: &usize| self.secured.get(*place).copied();
        let wants = |place: &usize| of(place).and_then(|(_, options)| options);
        let Some((first, _)) = places.iter().filter_map(of).min_by_key(|(router, _)| self.ages.rank(host, router))
        else {
            return;
        };
        let is_own = |place: &usize| of(place).is_some_and(|(router, _)| holder(router) == holder(first));
        let own: Vec<usize> = places.iter().copied().filter(is_own).collect();
        let wanted = own.first().and_then(wants);
        let is_agreed = own.iter().all(|place| wants(place) == wanted);
        let held = wanted.filter(|_| is_agreed);
        for place in places {
            let (is_own, Some((router, options))) = (is_own(place), of(place)) else { continue };
            if if is_own { is_agreed } else { options == held } {
                continue;
            }
            let other = own.iter().find(|other| !is_own || wants(other) != options).and_then(of);
            let Some((other, _)) = other else { continue };
            // What its owner asks of clients is not known where it cannot be used.
            let lost = held.filter(|name| !is_own && self.settings(name).is_none());
            let insists = options.filter(|name| self.asks(name)).or(lost).map(str::to_owned);
            let dispute = Dispute {
                entry_point: self.at,
                router: router.name.clone(),
                other: other.name.clone(),
                host: host.to_owned(),
                is_others: !is_own,
                held: held.map(str::to_owned),
                insists,
            };
            all.insert((*place, host.to_owned()), dispute);
        }
    }

    fn settings(&self, name: &str) -> Option<ClientAuth> {
        self.dynamic.tls_options.iter().find(|one| one.name == name).map(|one| one.settings.client_auth)
    }

    fn asks(&self, name: &str) -> bool {
        self.settings(name).is_some_and(|auth| auth != ClientAuth::None)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wayspan_proxy::clock::MonoNs;
    use wayspan_proxy::route::RequestView;

    use super::*;
    use crate::config::model::Holder;
    use crate::config::resolve::Resolved;
    use crate::config::tests::good;
    use crate::config::{Inputs, Registry};

    /// `a` for every entry point with the default options, and `b` with the options `o` at some; its host is `a`'s where
    /// `same`, which a file alone would be refused for.
    fn config(options: &str, entry_points: &str, same: bool) -> crate::config::model::Config {
        let mut config = good(&format!(
            "entryPoints: {{web: {{address: ':8000'}}, two: {{address: ':8001'}}}}\nhttp:\n  routers:\n    a: {{rule: 'Host(`a.test`)', \
             service: s, tls: {{}}, entryPoints: [web]}}\n    b: {{rule: 'Host(`b.test`) && Path(`/b`)', service: s, tls: {{options: o}}, \
             entryPoints: [{entry_points}]}}\n  services: {{s: {{loadBalancer: {{servers: [{{url: 'http://10.0.0.1'}}]}}}}}}\n\
             tls: {{options: {{o: {options}}}}}\n"
        ));
        if same {
            for router in config.dynamic.routers.iter_mut().filter(|router| router.name == "b") {
                let rule = wayspan_proxy::rule::Rule::parse("Host(`a.test`) && Path(`/b`)").unwrap();
                *router = Arc::new(Router { rule, ..Router::clone(router) });
            }
        }
        config
    }

    fn built(
        registry: &mut Registry,
        config: &crate::config::model::Config,
    ) -> (wayspan_proxy::snapshot::Snapshot, crate::catalog::Catalog) {
        let (fixed, dynamic, resolved) = (&config.fixed, &config.dynamic, &Resolved::default());
        let disputes = &disputes(dynamic);
        registry.build(&Inputs { fixed, dynamic, disputes, resolved, api: None, now: MonoNs(0) })
    }

    /// By entry point: the options of a connection for the host, and those that a request for `/b` is answered with alone.
    fn got(registry: &mut Registry, config: &crate::config::model::Config) -> Vec<(String, Option<String>)> {
        let (snapshot, _) = built(registry, config);
        let each = snapshot.entry_points.iter().map(|one| {
            let tls = one.tls.as_ref().unwrap();
            let (headers, client_ip) = (&http::HeaderMap::new(), [127, 0, 0, 1].into());
            let asks = RequestView { method: "GET", host: "a.test", path: "/b", query: "", headers, client_ip };
            let route = tls.routes.find(&asks).map(|found| found.route.tls_options.as_deref().map(str::to_owned));
            (tls.choice.of(Some("a.test")).name.to_string(), route.flatten())
        });
        each.collect()
    }

    #[test]
    fn who_disagrees_has_the_default_options_at_that_entry_point_alone_and_client_certificates_are_not_done_without() {
        const ASKS: &str = "{clientAuth: {clientAuthType: RequireAnyClientCert}}";
        let own = |name: &str| name.to_owned();
        let two = (own("o"), Some(own("o")));
        for (options, at_web) in [("{}", None), (ASKS, Some(own("o")))] {
            let config = config(options, "web, two", true);
            let told: Vec<String> = disputes(&config.dynamic).iter().map(Dispute::message).collect();
            assert_eq!(told.len(), 2);
            assert!(told[0].starts_with("`b` wants others for `a.test`") && told[1].starts_with("`a` wants others"));
            assert_eq!(told.concat().contains("421"), at_web.is_some(), "{told:?}");
            assert_eq!(got(&mut Registry::default(), &config), [(own("default"), at_web), two.clone()], "{options}");
        }
    }

    #[test]
    fn a_hosts_owner_chooses_its_options_and_who_else_names_it_is_served_under_them_or_not_at_all() {
        const ASKS: &str = "{clientAuth: {clientAuthType: RequireAnyClientCert}}";
        let some = |name: &str| Some(name.to_owned());
        // Since when `a` and `b` are there: `a` wants the default options, `b` the options `o`.
        for (options, since, wanted, message) in [
            // Nobody loses what he asks of clients by another's plain route for his host.
            (
                ASKS,
                [2024, 2020],
                ("o", None),
                "`b` had `a.test` first, and its TLS options `o` hold for that host; name the",
            ),
            // And nobody's host is closed by another who asks for them.
            (
                ASKS,
                [2020, 2024],
                ("default", some("o")),
                "`a` had `a.test` first, and its TLS options `default` hold for that host, and what",
            ),
            (
                "{}",
                [2020, 2024],
                ("default", None),
                "`a` had `a.test` first, and its TLS options `default` hold for that host; name",
            ),
            // Made at once: by name.
            ("{}", [2020, 2020], ("default", None), "`a` had"),
        ] {
            let mut config = config(options, "web, two", true);
            for router in &mut config.dynamic.routers {
                let at = usize::from(router.name == "b");
                let holder = Some(Holder { since: since[at], name: router.name.as_str().into() });
                *router = Arc::new(Router { holder, ..Router::clone(router) });
            }
            let all = disputes(&config.dynamic);
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].message().starts_with(message), "{}", all[0].message());
            let (held, insists) = wanted;
            let own = if held == "o" { some("o") } else { insists };
            assert_eq!(got(&mut Registry::default(), &config)[0], (held.to_owned(), own), "{since:?}");
            // What the configuration itself says goes before all that others bring.
            for router in config.dynamic.routers.iter_mut().filter(|router| router.name == "a") {
                *router = Arc::new(Router { holder: None, ..Router::clone(router) });
            }
            assert_eq!(disputes(&config.dynamic).iter().map(|one| &*one.router).collect::<Vec<_>>(), ["b"]);
        }
    }

    #[test]
    fn a_router_has_its_options_for_the_hosts_that_are_its_own() {
        let mut config = config("{}", "web, two", true);
        for (router, since) in config.dynamic.routers.iter_mut().zip([2020, 2024]) {
            let rule = if since == 2024 { "Host(`a.test`) || Host(`b.test`)" } else { &*router.rule.text };
            let rule = wayspan_proxy::rule::Rule::parse(rule).unwrap();
            let holder = Some(Holder { since, name: router.name.as_str().into() });
            *router = Arc::new(Router { rule, holder, ..Router::clone(router) });
        }
        let (snapshot, _) = built(&mut Registry::default(), &config);
        let choice = &snapshot.entry_points[0].tls.as_ref().unwrap().choice;
        assert_eq!(["a.test", "b.test"].map(|host| &*choice.of(Some(host)).name), ["default", "o"]);
    }

    #[test]
    fn where_the_owners_options_cannot_be_used_nobody_elses_route_is_served_instead() {
        let mut config = config("{clientAuth: {clientAuthType: RequireAnyClientCert}}", "web", true);
        for (router, since) in config.dynamic.routers.iter_mut().zip([2024, 2020]) {
            let holder = Some(Holder { since, name: router.name.as_str().into() });
            *router = Arc::new(Router { holder, ..Router::clone(router) });
        }
        config.dynamic.tls_options.clear();
        let all = disputes(&config.dynamic);
        assert_eq!((&*all[0].router, all[0].insists.as_deref()), ("a", Some("o")));
        assert!(all[0].message().contains("since they cannot be used requests are answered with 421"), "{all:?}");
    }

    #[test]
    fn nobody_disagrees_about_different_hosts_or_at_different_entry_points_and_a_settled_dispute_is_forgotten() {
        for config in [config("{}", "web, two", false), config("{}", "two", true)] {
            assert_eq!(disputes(&config.dynamic), []);
        }
        let mut registry = Registry::default();
        let mut disputed = config("{}", "web, two", true);
        let before = got(&mut registry, &disputed);
        // The other router leaves; this one is the same as before.
        disputed.dynamic.routers.retain(|router| router.name == "b");
        let after = got(&mut registry, &disputed);
        let options = |all: &[(String, Option<String>)]| all.first().map(|(name, _)| name.clone());
        assert_eq!((options(&before), options(&after)), (Some("default".to_owned()), Some("o".to_owned())));
    }
}
