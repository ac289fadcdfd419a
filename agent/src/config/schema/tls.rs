//! The known keys of TLS with clients: at entry points and routers, and the section `tls`.

use super::{Key, Kind, key};

const VERSIONS: Kind = Kind::Choice(&["VersionTLS12", "VersionTLS13"]);
const CLIENT_AUTH: Kind = Kind::Choice(&[
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
]);

/// Rows of [`super::keys`].
pub(super) const KEYS: &[Key] = &[
    key(
        "entryPoints.<name>.http.tls",
        Kind::Section,
        "",
        "Its routers take TLS and not plain requests, but for routers that say `tls` themselves.",
    ),
    key("entryPoints.<name>.http.tls.options", Kind::Text, "", "Name of TLS options for its routers; none: `default`."),
    key(
        "entryPoints.<name>.http.tls.domains[].main",
        Kind::Text,
        "",
        "Shown by the api; certificates are chosen by name.",
    ),
    key("entryPoints.<name>.http.tls.domains[].sans", Kind::Texts, "", "Likewise."),
    key(
        "http.routers.<name>.tls",
        Kind::Section,
        "",
        "The router takes TLS and not plain requests. Entry points with such a router take both.",
    ),
    key(
        "http.routers.<name>.tls.options",
        Kind::Text,
        "",
        "Name of TLS options. A connection has those of the router whose `Host` its server name is; a request that gets to a \
         router of others is answered with 421.",
    ),
    key("http.routers.<name>.tls.domains[].main", Kind::Text, "", "Shown by the api; certificates are chosen by name."),
    key("http.routers.<name>.tls.domains[].sans", Kind::Texts, "", "Likewise."),
    key(
        "tls.certificates[].certFile",
        Kind::Text,
        "",
        "A certificate and those that certify it: a file in PEM, or its text. It is for the names that it holds; exact ones \
         go before wildcards. A file that changes is read again.",
    ),
    key("tls.certificates[].keyFile", Kind::Text, "", "Its private key: likewise."),
    key("tls.certificates[].stores", Kind::Texts, "default", "There is one store, `default`."),
    key(
        "tls.stores.default.defaultCertificate.certFile",
        Kind::Text,
        "",
        "The certificate for names that no other is for; none: one that we sign ourselves.",
    ),
    key("tls.stores.default.defaultCertificate.keyFile", Kind::Text, "", "Its private key."),
    key(
        "tls.options.<name>.minVersion",
        VERSIONS,
        "VersionTLS12",
        "The oldest version. `default` is for whoever names none.",
    ),
    key("tls.options.<name>.maxVersion", VERSIONS, "VersionTLS13", "The newest version."),
    key(
        "tls.options.<name>.cipherSuites",
        Kind::Texts,
        "",
        "Suites of TLS 1.2, the best first, such as `TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256`; none: all that are safe. Those of \
         TLS 1.3 are always there.",
    ),
    key(
        "tls.options.<name>.curvePreferences",
        Kind::Texts,
        "",
        "Of `X25519`, `CurveP256` and `CurveP384`, the best first; none: all.",
    ),
    key(
        "tls.options.<name>.clientAuth.caFiles",
        Kind::Texts,
        "",
        "Who may certify clients: files in PEM, or their text.",
    ),
    key(
        "tls.options.<name>.clientAuth.clientAuthType",
        CLIENT_AUTH,
        "",
        "Whether clients are asked for a certificate; with `caFiles` and without this, they must have one of these.",
    ),
    key(
        "tls.options.<name>.sniStrict",
        Kind::Bool,
        "false",
        "Refuse names that no certificate is for, and clients that name none.",
    ),
    key(
        "tls.options.<name>.alpnProtocols",
        Kind::Texts,
        "http/1.1",
        "HTTP/2 is not supported yet: `http/1.1` must be among them.",
    ),
    key("tls.options.<name>.disableSessionTickets", Kind::Bool, "false", "Sessions are not resumed."),
];
