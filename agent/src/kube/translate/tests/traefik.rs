//! Traefik's own fixtures: what Traefik's tests expect of them, held against what we make of them. `cargo xtask fixtures`
//! records the one, gives it to this test, and judges the differences that it writes down.

mod compare;
mod matching;
mod ours;
mod probe;
mod seen;
mod theirs;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::names;
use super::*;

/// A line of the record.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Recorded {
    Configuration(Box<Case>),
    Matching(matching::Case),
}

/// A provider's test: what it read and what it made of it.
#[derive(Debug, Deserialize)]
struct Case {
    provider: Provider,
    test: String,
    fixtures: Vec<String>,
    settings: Settings,
    configuration: Value,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
enum Provider {
    Ingress,
    Crd,
    Gateway,
}

impl Provider {
    /// What names are completed with.
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => names::INGRESS,
            Self::Crd => names::CRD,
            Self::Gateway => names::GATEWAY,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Settings {
    provider: Value,
    #[serde(default)]
    default_rule_syntax: String,
    restricts_providers: bool,
    #[serde(default)]
    entry_points: Option<BTreeMap<String, TheirEntryPoint>>,
    #[serde(default)]
    extended: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TheirEntryPoint {
    address: String,
    #[serde(rename = "HasHTTPTLSConf")]
    has_tls: bool,
}

/// What came of a case.
#[derive(Debug, Serialize)]
struct Outcome {
    group: String,
    test: String,
    fixtures: Vec<String>,
    /// Empty: the same routing.
    differences: Vec<String>,
    /// What we say of the objects, and what a test sets that we have no key for.
    said: Vec<String>,
}

#[test]
#[ignore = "`cargo xtask fixtures` gives it its cases"]
fn traefiks_fixtures_are_translated_as_traefik_does() {
    let named =
        |name: &str| PathBuf::from(wayspan_tests::environment(name).unwrap_or_else(|| panic!("{name} is not set")));
    let (record, providers) = (named("FIXTURES_RECORD"), named("FIXTURES_PROVIDERS"));
    let lines = std::fs::read_to_string(&record).unwrap();
    let outcomes: Vec<Outcome> = lines
        .lines()
        .map(|line| match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
            Recorded::Configuration(case) => case.outcome(&providers),
            Recorded::Matching(case) => case.outcome(),
        })
        .collect();
    assert!(!outcomes.is_empty(), "{} is empty", record.display());
    std::fs::write(named("FIXTURES_OUTCOME"), serde_json::to_string(&outcomes).unwrap()).unwrap();
}

impl Case {
    fn outcome(self, providers: &Path) -> Outcome {
        let folder = providers.join(match self.provider {
            Provider::Ingress => "ingress",
            Provider::Crd => "crd",
            Provider::Gateway => "gateway",
        });
        let mut said = self.unsupported();
        let mut texts = String::new();
        for fixture in &self.fixtures {
            texts +=
                &std::fs::read_to_string(folder.join(fixture)).unwrap_or_else(|error| panic!("{error}: {fixture}"));
            texts += "\n---\n";
        }
        let (objects, secrets) = ours::objects(&texts, &mut said);
        let parts = Translator::default().translate(&objects, &self.kubernetes(&objects), None, &self.around());
        said.extend(parts.problems.iter().map(ToString::to_string));
        let expected = theirs::seen(self.provider, &self.configuration);
        let got = ours::seen(self.provider, &parts, &secrets);
        let differences = compare::differences(&expected, &got, self.provider != Provider::Gateway);
        let group = serde_json::to_value(self.provider).unwrap().as_str().unwrap_or_default().to_owned();
        Outcome { group, test: self.test, fixtures: self.fixtures, differences, said }
    }

    fn flag(&self, key: &str) -> bool {
        self.settings.provider[key] == true
    }

    /// The provider's settings as ours.
    fn kubernetes(&self, objects: &Objects) -> Kubernetes {
        let said = &self.settings.provider;
        let namespaces = said["namespaces"].as_array().into_iter().flatten();
        // There, whoever has a `default` has it for all.
        let defaults = objects.tls_options.iter().chain(objects.tls_stores.iter());
        let provider = KubernetesProvider {
            defaults_namespaces: defaults.map(|(key, _)| key.namespace.to_string()).collect(),
            namespaces: namespaces.filter_map(|name| name.as_str().map(str::to_owned)).collect(),
            ingress_class: said["ingressClass"].as_str().unwrap_or_default().to_owned(),
            allow_external_names: self.flag("allowExternalNameServices") || self.provider == Provider::Gateway,
            allow_empty: self.flag("allowEmptyServices") || self.provider == Provider::Gateway,
            allow_cross_namespace: self.flag("allowCrossNamespace"),
            strict_prefix: self.flag("strictPrefixMatching"),
            open_ports: true,
            ..KubernetesProvider::default()
        };
        let mut all = Kubernetes::default();
        match self.provider {
            Provider::Ingress => all.ingress = Some(provider),
            Provider::Crd => all.crd = Some(provider),
            Provider::Gateway => all.gateway = Some(provider),
        }
        all
    }

    /// Traefik's entry points, which are named `:80`.
    fn around(&self) -> Around {
        let all = self.settings.entry_points.iter().flatten();
        let addresses = |address: &str| -> Vec<SocketAddr> {
            let port = address.rsplit(':').next().and_then(|port| port.split('/').next()?.parse().ok());
            port.map(|port| SocketAddr::from(([0, 0, 0, 0], port))).into_iter().collect()
        };
        Around {
            entry_points: all
                .map(|(name, one)| Entry {
                    name: name.clone(),
                    addresses: addresses(&one.address),
                    published: Vec::new(),
                    secure: false,
                })
                .collect(),
            ..Around::default()
        }
    }

    /// What a test sets that we have no key for.
    fn unsupported(&self) -> Vec<String> {
        let flags =
            ["nativeLBByDefault", "disableIngressClassLookup", "disableClusterScopeResources", "experimentalChannel"];
        let mut all: Vec<String> =
            flags.into_iter().filter(|key| self.flag(key)).map(|key| format!("setting {key}")).collect();
        if self.settings.restricts_providers {
            all.push("setting crossProviderNamespaces".to_owned());
        }
        if self.settings.default_rule_syntax == "v2" {
            all.push("setting defaultRuleSyntax v2".to_owned());
        }
        if self.settings.extended {
            all.push("setting of builders for objects that only the test knows".to_owned());
        }
        if self.settings.provider["labelSelector"].is_string() {
            all.push("setting labelSelector, which the API server heeds".to_owned());
        }
        if self.settings.entry_points.iter().flatten().any(|(_, one)| one.has_tls) {
            all.push("setting http.tls of an entry point".to_owned());
        }
        all
    }
}
