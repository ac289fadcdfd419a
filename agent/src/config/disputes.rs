//! Routers that want different TLS options for one host at one entry point. A connection has one set, chosen before its first
//! request: as in Traefik it has the default ones, and the routers are told. Who asks clients for certificates is not
//! reached that way, or whoever names the same host could open a door that is closed.

use std::collections::{BTreeMap, HashMap, HashSet};

use wayspan_proxy::tls::hosts;

use super::model::{ClientAuth, Dynamic, EntryPoint, Router};

/// A router that does not get the options that it wants.
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
    /// It asks clients for certificates, and is not served without.
    pub refused: bool,
}

impl Dispute {
    /// For its owner.
    #[must_use]
    pub fn message(&self) -> String {
        let Self { other, host, .. } = self;
        let refused = if self.refused { ", and what asks for client certificates is answered with 421" } else { "" };
        format!(
            "`{other}` wants others for `{host}`, and a connection has one set of TLS options: the default ones{refused}; name \
             the same"
        )
    }
}

/// The options of a router at an entry point; the outer `None`: it takes no TLS there.
pub(super) fn options<'d>(router: &'d Router, entry_point: &'d EntryPoint) -> Option<Option<&'d str>> {
    router.tls.as_ref().or(entry_point.tls.as_ref()).map(|tls| tls.options.as_deref())
}

/// Each router once at each entry point, in their order.
#[must_use]
pub fn disputes(dynamic: &Dynamic) -> Vec<Dispute> {
    let mut all = Vec::new();
    for (at, entry_point) in dynamic.entry_points.iter().enumerate() {
        let here = dynamic.routers.iter().filter(|router| entry_point.takes(router));
        let secured: Vec<_> =
            here.filter_map(|router| Some((router.as_ref(), options(router, entry_point)?))).collect();
        // Rules are not taken apart where nobody can disagree.
        let different: HashSet<_> = secured.iter().map(|(_, options)| options).collect();
        if different.len() > 1 {
            all.extend(at_one(dynamic, at, &secured));
        }
    }
    all
}

fn at_one(dynamic: &Dynamic, at: usize, secured: &[(&Router, Option<&str>)]) -> Vec<Dispute> {
    // By host, the first router of each set of options.
    let mut by_host: HashMap<String, BTreeMap<Option<&str>, usize>> = HashMap::new();
    let each: Vec<Vec<String>> = secured.iter().map(|(router, _)| hosts(&router.rule)).collect();
    for (place, (names, (_, options))) in each.iter().zip(secured).enumerate() {
        for host in names {
            by_host.entry(host.clone()).or_default().entry(*options).or_insert(place);
        }
    }
    let asks = |options: Option<&str>| {
        let options = options.and_then(|name| dynamic.tls_options.iter().find(|one| one.name == name));
        options.is_some_and(|options| options.settings.client_auth != ClientAuth::None)
    };
    let each = each.iter().zip(secured).filter_map(|(names, (router, options))| {
        names.iter().find_map(|host| {
            let others = by_host.get(host)?.iter().filter(|(other, _)| *other != options);
            let (other, _) = secured.get(*others.map(|(_, place)| place).min()?)?;
            Some(Dispute {
                entry_point: at,
                router: router.name.clone(),
                other: other.name.clone(),
                host: host.clone(),
                refused: asks(*options),
            })
        })
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use wayspan_proxy::clock::MonoNs;
    use wayspan_proxy::route::RequestView;

    use super::*;
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

    /// By entry point: the options of a connection for the host, and those that a request for `/b` is answered with alone.
    fn got(registry: &mut Registry, config: &crate::config::model::Config) -> Vec<(String, Option<String>)> {
        let (fixed, dynamic, resolved) = (&config.fixed, &config.dynamic, &Resolved::default());
        let (snapshot, _) = registry.build(&Inputs {
            fixed,
            dynamic,
            disputes: &disputes(dynamic),
            resolved,
            api: None,
            now: MonoNs(0),
        });
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
