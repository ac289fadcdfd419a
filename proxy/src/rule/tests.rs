//! What rules mean, drawn from Traefik v3's documented and observed behaviour, and what they may not be.

use http::{HeaderMap, HeaderName, HeaderValue};

use super::*;

/// `[METHOD ][http://HOST]/path[?query][ from ADDRESS][ with Name: value]...`
fn with_request<T>(text: &str, check: impl FnOnce(&RequestView<'_>) -> T) -> T {
    let mut fields = text.split(" with ");
    let (line, from) = {
        let line = fields.next().unwrap();
        line.split_once(" from ").unwrap_or((line, "192.0.2.1"))
    };
    let (method, url) = line.split_once(' ').unwrap_or(("GET", line));
    let (host, target) = match url.strip_prefix("http://") {
        Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
        None => ("example.com", url),
    };
    let target = if target.is_empty() { "/" } else { target };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers = HeaderMap::new();
    for field in fields {
        let (name, value) = field.split_once(": ").unwrap();
        headers.append(
            HeaderName::from_bytes(name.as_bytes()).unwrap(),
            HeaderValue::from_bytes(value.as_bytes()).unwrap(),
        );
    }
    check(&RequestView { method, host, path, query, headers: &headers, client_ip: from.parse().unwrap() })
}

/// Rule, requests that match, requests that do not.
type Case = (&'static str, &'static [&'static str], &'static [&'static str]);

fn check(cases: &[Case]) {
    for (text, matching, others) in cases {
        let rule = Rule::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        for (requests, expected) in [(matching, true), (others, false)] {
            for request in *requests {
                let got = with_request(request, |view| rule.matches(view));
                assert_eq!(got, expected, "rule {text}, request {request}");
            }
        }
    }
}

#[test]
fn hosts_match_without_port_case_and_final_dot() {
    check(&[
        (
            "Host(`example.com`)",
            &[
                "http://example.com/",
                "http://example.com:8080/",
                "http://EXAMPLE.COM/path",
                "http://example.com./",
                "http://Example.Com.:80/",
            ],
            &[
                "http://example.org/",
                "http://www.example.com/",
                "http://example.com../",
                "http:///",
                "http://./",
                "http://example.com:80:80/",
            ],
        ),
        (
            "Host(`example.com.`)",
            &["http://example.com", "http://example.com./path"],
            &["http://example.org", "http://example.org./path"],
        ),
        ("Host(`EXAMPLE.COM`)", &["http://example.com/path"], &["http://example.org/path"]),
        ("Host(`xn--9t9h.com`)", &["http://xn--9t9h.com/"], &["http://example.com", "http://🦭.com/"]),
        ("Host(`::1`)", &["http://[::1]/", "http://[::1]:8000/", "http://::1/"], &["http://[::2]/", "http://[::1/"]),
        ("Host(`127.0.0.1`)", &["http://127.0.0.1:8000/"], &["http://127.0.0.11/"]),
        ("Host(`a_b.local`)", &["http://a_b.local/"], &["http://a-b.local/"]),
    ]);
}

#[test]
fn wildcard_hosts_match_one_label_or_more() {
    check(&[
        (
            "Host(`*.example.com`)",
            &["http://foo.example.com/", "http://FOO.EXAMPLE.COM:80/", "http://foo.example.com./"],
            &["http://bar.foo.example.com/", "http://example.com/", "http://fooexample.com/"],
        ),
        (
            "Host(`**.Example.com`)",
            &["http://foo.example.com/", "http://bar.foo.example.com/"],
            &["http://example.com/", "http://.example.com/", "http://foo.example.org/", "http://fooexample.com/"],
        ),
        ("Host(`*`)", &["http://localhost/", "http://a.example.com/", "http:///"], &[]),
    ]);
}

#[test]
fn host_regexps_see_the_lower_case_host_unanchored() {
    check(&[
        (
            "HostRegexp(`^[a-zA-Z-]+\\.com$`)",
            &["http://example.com", "http://example.com:8080", "http://EXAMPLE.com/path"],
            &["http://example.org", "http://example.com."],
        ),
        ("HostRegexp(`^[A-Z]+\\.com$`)", &[], &["http://example.com", "http://EXAMPLE.com"]),
        ("HostRegexp(`{domain:[a-zA-Z-]+\\.com}`)", &[], &["http://example.com"]),
        ("HostRegexp(`ample`)", &["http://example.com"], &["http://exam.ple"]),
        ("HostRegexp(`.*`)", &["http:///", "http://a"], &[]),
    ]);
}

#[test]
fn paths_match_whole_and_prefixes_as_strings() {
    check(&[
        ("Path(`/css`)", &["/css", "http://example.org/css"], &["/", "/html", "/css/", "/css/main.css", "/CSS", "/cs"]),
        ("PathPrefix(`/css`)", &["/css", "/css/", "/css/main.css", "/css-is-a-string-prefix"], &["/", "/html", "/cs"]),
        ("PathPrefix(`/`)", &["/", "/x"], &["OPTIONS *"]),
        (
            "PathRegexp(`^/(css|js)`)",
            &["/css", "/css/", "/css/main.css", "/js", "/js/main.js"],
            &["/", "/html", "/CSS", "/x/css"],
        ),
        ("PathRegexp(`\\.(jpeg|jpg|png)$`)", &["/a/b.png", "/c.jpg"], &["/c.jpgx", "/cjpg"]),
        ("PathRegexp(`(?i)^/admin`)", &["/Admin/x", "/ADMIN"], &["/x/admin"]),
        ("PathRegexp(\"/{path:(css|js)}\")", &["/{path:css}", "/%7Bpath:js%7D/"], &["/css", "/js/"]),
    ]);
}

#[test]
fn escapes_of_unreserved_characters_do_not_matter() {
    check(&[
        ("PathPrefix(`/foo bar`)", &["/foo%20bar", "/foo%20bar/baz", "/%66oo%20bar"], &["/foo+bar", "/foo"]),
        ("PathPrefix(`/foo%20bar`)", &["/foo%20bar"], &["/foo"]),
        ("Path(`/a/b`)", &["/a/b", "/%61/b"], &["/a%2Fb", "/a%2fb"]),
        ("Path(`/a%2Fb`)", &["/a%2Fb", "/a%2fb"], &["/a/b"]),
        ("Path(`/100%25`)", &["/100%25"], &["/100"]),
        ("Path(`/a%zz`)", &["/a%zz"], &["/a"]),
        ("Path(`/ä`)", &["/%C3%A4", "/%c3%a4"], &["/a"]),
        ("PathRegexp(`^/foo bar$`)", &["/foo%20bar"], &["/foo%2520bar"]),
    ]);
}

#[test]
fn methods_are_upper_case() {
    check(&[
        ("Method(`GET`)", &["GET /"], &["POST /", "get /"]),
        ("Method(`get`)", &["GET /"], &["POST /", "get /"]),
        ("Method(`PURGE`)", &["PURGE /"], &["GET /"]),
    ]);
}

#[test]
fn headers_match_by_any_of_their_values() {
    check(&[
        (
            "Header(`X-Forwarded-Proto`, `https`)",
            &["/ with x-forwarded-proto: https", "/ with X-Forwarded-Proto: http with X-Forwarded-Proto: https"],
            &[
                "/",
                "/ with x-forwarded-proto: HTTPS",
                "/ with X-Forwarded-Host: https",
                "/ with X-Forwarded-Proto: https2",
            ],
        ),
        (
            "HeaderRegexp(`x-forwarded-proto`, `^https?$`)",
            &["/ with X-Forwarded-Proto: http", "/ with X-Forwarded-Proto: ws with X-Forwarded-Proto: https"],
            &["/ with X-Forwarded-Proto: HTTPS", "/ with X-Forwarded-Proto: xhttp", "/"],
        ),
        (
            "HeaderRegexp(`X-Forwarded-Proto`, `http{secure:s?}`)",
            &["/ with X-Forwarded-Proto: http{secure:}", "/ with X-Forwarded-Proto: http{secure:s}"],
            &["/ with X-Forwarded-Proto: https", "/ with X-Forwarded-Proto: http{secure:S}"],
        ),
    ]);
}

#[test]
fn queries_match_by_any_decoded_value() {
    check(&[
        (
            "Query(`q`, `traefik`)",
            &["/?q=traefik", "/?rel=ddg&q=traefik", "/?q=traefik&q=proxy", "/?q=awesome&q=traefik", "/?%71=tr%61efik"],
            &[
                "/",
                "/?q=nginx",
                "/?rel=ddg",
                "/?q=TRAEFIK",
                "/?Q=traefik",
                "/?rel=traefik",
                "/?q=traefik;x=1",
                "/?q=traefi%6",
            ],
        ),
        ("Query(`mobile`)", &["/?mobile", "/?mobile=", "/?a=b&mobile"], &["/", "/?mobile=true", "/?mobiles"]),
        ("Query(`q`, `a b=c`)", &["/?q=a+b=c", "/?q=a%20b%3Dc"], &["/?q=a_b=c", "/?q=a"]),
        (
            "QueryRegexp(`q`, `^(traefik|nginx)$`)",
            &["/?q=traefik", "/?q=awesome&q=nginx"],
            &["/", "/?q=TRAEFIK", "/?Q=nginx", "/?rel=nginx", "/?q=haproxy"],
        ),
        ("QueryRegexp(`q`, `^.*$`)", &["/?q=traefik", "/?q", "/?q="], &["/", "/?Q=traefik", "/?rel=ddg"]),
        ("QueryRegexp(`q`)", &["/?q"], &["/?q=1", "/"]),
        ("QueryRegexp(`q`, `{value:(a|b)}`)", &["/?q={value:a}"], &["/?q=a"]),
    ]);
}

#[test]
fn bytes_that_are_no_text_match_as_in_go() {
    /// What a Go program said of each pattern and each of these.
    const TEXTS: [&[u8]; 13] = [
        b"\xe9t\xe9",
        b"/a\xffb",
        b"\xff",
        b"\xe1\x80",
        b"\xe1\x80a",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf0\x9f\xa6",
        "\u{e9}".as_bytes(),
        b"\xf4\x90\x80\x80",
        b"a\xe9",
        "\u{fffd}".as_bytes(),
        b"\xc3",
    ];
    for (pattern, matching) in [
        (r"^.+$", [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]),
        (r"^/a.b$", [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (r"^.$", [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]),
        (r"^..$", [0, 0, 0, 1, 0, 0, 1, 0, 0, 0, 1, 0, 0]),
        (r"^...$", [1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]),
        (r"^[^a]$", [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]),
        (r"^\x{FFFD}$", [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        (r"^\W\D\S$", [1, 0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]),
        (r"^\w", [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0]),
        (r"^[\x{80}-\x{10FFFF}]{3}$", [0, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 0]),
        (r"^\PL$", [0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]),
        (r"^(?s:.)$", [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]),
        (r"\bt\b", [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        (r"^[[:^alpha:]]$", [0, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1]),
        (r"^\x{E9}$", [0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]),
    ] {
        let rules = ["", "!"].map(|not| Rule::parse(&format!("{not}HeaderRegexp(`x`, `{pattern}`)")).unwrap());
        for (text, expected) in TEXTS.iter().zip(matching) {
            let headers =
                HeaderMap::from_iter([(HeaderName::from_static("x"), HeaderValue::from_bytes(text).unwrap())]);
            let got = with_request("/", |view| {
                rules.each_ref().map(|rule| rule.matches(&RequestView { headers: &headers, ..*view }))
            });
            assert_eq!(got, [expected == 1, expected == 0], "{pattern} {}", text.escape_ascii());
        }
    }
    check(&[
        ("PathRegexp(`^/a.b$`)", &["/a%ffb", "/aXb", "/a%C3%A9b"], &["/a%ff%ffb", "/a%e1%80b"]),
        ("!PathRegexp(`^/a.b$`)", &["/ab"], &["/a%ffb"]),
        ("QueryRegexp(`q`, `^.$`)", &["/?q=%ff"], &["/?q=%ff%fe"]),
    ]);
}

#[test]
fn client_addresses_match_alone_or_by_range() {
    check(&[
        (
            "ClientIP(`127.0.0.1`)",
            &["/ from 127.0.0.1", "/ from ::ffff:127.0.0.1"],
            &["/ from 192.168.1.1", "/ from ::1"],
        ),
        ("ClientIP(`192.168.1.7/24`)", &["/ from 192.168.1.1", "/ from 192.168.1.100"], &["/ from 192.168.2.1"]),
        ("ClientIP(`10::10`)", &["/ from 10::10"], &["/ from ::1"]),
        ("ClientIP(`10::/16`)", &["/ from 10::10"], &["/ from 11::10", "/ from 10.0.0.0"]),
        ("ClientIP(`::ffff:10.0.0.0/104`)", &["/ from 10.1.2.3"], &["/ from 11.1.2.3"]),
        ("ClientIP(`0.0.0.0/0`)", &["/ from 8.8.8.8"], &["/ from ::1"]),
    ]);
}

#[test]
fn operators_bind_as_in_go() {
    check(&[
        ("Host(`localhost`) && PathPrefix(`/css`)", &["http://localhost/css"], &["http://localhost/js", "/css"]),
        ("Host(`example.com`) || Host(`example.org`)", &["/css", "http://example.org/js"], &["http://example.eu/html"]),
        (
            "Host(\"example.com\") || Host(\"example.org\") && Path(\"/css\")",
            &["/css", "/js", "http://example.org/css"],
            &["http://example.org/js", "http://example.eu/css"],
        ),
        (
            "(Host(\"example.com\") || Host(\"example.org\")) && Path(\"/css\")",
            &["/css", "http://example.org/css"],
            &["/js", "http://example.org/js", "http://example.eu/css"],
        ),
        (
            "(Host(`example.com`) && Path(`/js`)) || ((Host(`example.org`)) && Path(`/css`))",
            &["/js", "http://example.org/css"],
            &["/css", "http://example.org/js"],
        ),
        ("!Host(`example.com`)", &["http://example.org"], &["/"]),
        (
            "!(Host(`example.com`) || Host(`example.org`))",
            &["http://example.eu/js"],
            &["/css", "http://example.org/js"],
        ),
        ("!(Host(`example.com`) && Path(`/css`))", &["/js", "http://example.eu/css"], &["/css"]),
        ("!(Host(`example.com`) && !Path(`/css`))", &["/css", "http://example.org/css"], &["/js"]),
        ("!Host(`example.com`) || !Path(`/css`)", &["/js", "http://example.org/css"], &["/css"]),
        ("!(!(Host(`example.com`) && Pathprefix(`/css`)))", &["/css"], &["/js", "http://example.org/css"]),
        ("!!Host(`example.com`)", &["/"], &["http://example.org/"]),
        (
            "!Host(`example.com`) && Pathprefix(`/css`)",
            &["http://example.org/css"],
            &["http://example.org/js", "/css", "/js"],
        ),
        (
            "!Host(`example.com`) && Path(`/a`) || Method(`PUT`)",
            &["http://example.org/a", "PUT /"],
            &["/a", "http://example.org/b"],
        ),
    ]);
}

#[test]
fn text_is_read_as_go_reads_it() {
    check(&[
        ("PATHPREFIX(`/css`)", &["/css"], &["/js"]),
        ("pathprefix(`/css`)", &["/css"], &["/js"]),
        ("  Path  (  `/css`  ,  )  \t", &["/css"], &["/js"]),
        ("Host(`example.com`) &&\n  Path(`/css`)\n  || Path(`/x`)", &["/css", "/x"], &["/js"]),
        ("Path(\"/a\\x62\\143\\u0064\\U00000065\\\"\\\\\")", &["/abcde\"\\"], &["/abcde"]),
        ("Path(`/a\\x62`)", &["/a\\x62"], &["/ab"]),
        ("Path(`/a\r\n`)", &["/a%0A"], &["/a"]),
        ("Path(\"/`\")", &["/`"], &["/"]),
        ("Path(`/\"`)", &["/\""], &["/"]),
    ]);
}

/// Rule, column, part of the fault, part of the remedy.
const FAULTS: &[(&str, usize, &str, &str)] = &[
    ("", 1, "empty", "Host"),
    ("   ", 4, "empty", "Host"),
    ("rulewithnotmatcher", 1, "unknown matcher rulewithnotmatcher", "the matchers are ClientIP"),
    ("Hots(`a`)", 1, "unknown matcher Hots", "did you mean Host?"),
    ("Host(`a`) && Headers(`a`, `b`)", 14, "unknown matcher Headers", "did you mean Header?"),
    ("HostHeader(`a`)", 1, "unknown", "calls it Host"),
    ("HostSNI(`a`)", 1, "unknown", "TCP"),
    ("PathPrefx(`/`)", 1, "unknown", "did you mean PathPrefix?"),
    ("Host", 5, "no values", "Host(`example.com`)"),
    ("Host(example.com)", 6, "not quoted", "backticks"),
    ("Host('example.com')", 6, "not quoted", "backticks"),
    ("Host(1)", 6, "not quoted", "backticks"),
    ("Host(`a`", 9, "expected , or )", "close"),
    ("Host(", 6, "never closed", "add"),
    ("Host(`a", 6, "` is never closed", "add a `"),
    ("Host(\"a", 6, "\" is never closed", "add a \""),
    ("Host(\"a\n\")", 6, "\" is never closed", "same line"),
    ("Path(\"/\\d\")", 8, "escape", "backticks"),
    ("Path(\"/\\'\")", 8, "escape", "backticks"),
    ("Path(\"/\\xff\")", 6, "not UTF-8", "escape"),
    ("Path(\"/\\400\")", 8, "escape", "backticks"),
    ("Host()", 1, "Host with 0 values", "write Host("),
    ("Host(``)", 6, "empty value", "leave the matcher out"),
    ("Host(`a`, `b`)", 1, "2 values", "Host(`a`) || Host(`b`)"),
    ("Host(`🦭.com`)", 6, "not ASCII", "xn--"),
    ("Host(`/`)", 6, "not a host name", "PathPrefix"),
    ("Host(`a.b:8000`)", 6, "not a host name", "entry point"),
    ("Host(`[::1]`)", 6, "not a host name", "without brackets"),
    ("Host(`a.*.b`)", 6, "not a host name", "HostRegexp"),
    ("Host(`.`)", 6, "not a host name", "example.com"),
    ("HostRegexp(`🦭.com`)", 12, "not ASCII", "xn--"),
    ("HostRegexp(`(example.com`)", 12, "unclosed group", "RE2"),
    ("PathRegexp(`a`, `b`)", 1, "2 values", "||"),
    ("PathRegexp(`(?=a)`)", 12, "not a regular expression", "RE2"),
    ("PathRegexp(`(?x)a`)", 12, "not in Go's syntax", "RE2"),
    ("PathRegexp(`(\\pL{100}){100}`)", 12, "more than", "RE2"),
    ("Path(`css`)", 6, "does not begin with /", "write `/css`"),
    ("PathPrefix(`css`)", 12, "does not begin with /", "write `/css`"),
    ("Method(`GET`, `POST`)", 1, "2 values", "Method(`GET`) || Method(`POST`)"),
    ("Header(`X-A`)", 1, "1 values", "Header(`X-Key`, `value`)"),
    ("Header(`X-A`, ``)", 15, "empty value", "leave"),
    ("Header(``, `x`)", 8, "empty value", "leave"),
    ("Header(`X A`, `x`)", 8, "not a header name", "first"),
    ("Header(`Host`, `x`)", 8, "not matched as a header", "HostRegexp"),
    ("HeaderRegexp(`X-A`, `b`, `c`)", 1, "3 values", "write HeaderRegexp"),
    ("Query(``)", 7, "empty value", "Query(`debug`)"),
    ("Query(`q`, ``)", 12, "empty value", "Query(`debug`)"),
    ("Query(`q`, `a`, `b`)", 1, "3 values", "write Query"),
    ("ClientIP(`1`)", 10, "neither", "10.0.0.0/8"),
    ("ClientIP(`10.0.0.0/33`)", 10, "neither", "10.0.0.0/8"),
    ("ClientIP(`127.0.0.1`, `192.168.1.0/24`)", 1, "2 values", "||"),
    ("Host(`a`) & Path(`/`)", 11, "not an operator", "write &&"),
    ("Host(`a`) | Path(`/`)", 11, "not an operator", "write ||"),
    ("Host(`a`) AND Path(`/`)", 11, "not an operator", "write &&"),
    ("Host(`a`) or Path(`/`)", 11, "not an operator", "write ||"),
    ("Host(`a`) Path(`/`)", 11, "no operator", "&& or ||"),
    ("Host(`a`), Path(`/`)", 10, "unexpected `,`", "&& or ||"),
    ("Host(`a`) &&", 13, "ends where a matcher", "PathPrefix"),
    ("Host(`a`))", 10, "closes nothing", "remove"),
    ("(Host(`a`)", 1, "( is never closed", "add a )"),
    ("`a`", 1, "without a matcher", "Host"),
    ("|| Host(`a`)", 1, "where a matcher is expected", "PathPrefix"),
    ("Host(`ä`) && Foo(`1`)", 6, "not ASCII", "xn--"),
    ("Path(`/ä`) && Foo(`1`)", 15, "unknown", "matchers are"),
];

#[test]
fn faults_name_their_column_and_their_remedy() {
    for (text, column, fault, remedy) in FAULTS {
        let error = Rule::parse(text).expect_err(text);
        assert_eq!(error.column, *column, "{text:?}: {error}");
        assert!(error.fault.contains(fault), "{text}: {error}");
        assert!(error.remedy.contains(remedy), "{text}: {error}");
    }
}

#[test]
fn limits_hold() {
    let nested = |depth: usize| format!("{}Path(`/`){}", "(".repeat(depth), ")".repeat(depth));
    assert!(Rule::parse(&nested(NESTING_MAX - 1)).is_ok());
    assert!(Rule::parse(&nested(NESTING_MAX)).is_err());
    assert!(Rule::parse(&nested(RULE_BYTES_MAX / 3)).is_err());
    assert!(Rule::parse(&"!".repeat(RULE_BYTES_MAX)).is_err());
    let chain = |count: usize| vec!["Path(`/`)"; count].join("||");
    assert!(Rule::parse(&chain(5000)).is_ok());
    assert!(Rule::parse(&chain(6000)).unwrap_err().fault.contains("too long"));
    let regexes = |count: usize| vec!["PathRegexp(`a`)"; count].join(" && ");
    assert!(Rule::parse(&regexes(REGEXES_MAX)).is_ok());
    assert!(Rule::parse(&regexes(REGEXES_MAX + 1)).unwrap_err().fault.contains("too many"));
}

/// Pattern, texts that match, texts that do not: all as Go 1.26 has them.
const PATTERNS: &[Case] = &[
    (r"^\d+$", &["12"], &["١", ""]),
    (r"^\w$", &["a", "_", "Z"], &["é"]),
    (r"^\s$", &[" ", "\t"], &["\u{a0}", "\u{b}"]),
    (r"^\D\S\W$", &["éé\u{e9}"], &["1éé"]),
    (r"\bé", &["aé"], &["é"]),
    (r"^a\Bb$", &["ab"], &["a b"]),
    (r"^[\d-x]$", &["1", "-", "x"], &["5-", "w"]),
    (r"^[^\d]$", &["a"], &["1"]),
    (r"^[a[]+$", &["[a["], &["b"]),
    (r"^[a&&b]+$", &["a&b"], &["c"]),
    (r"^[a~~b]+$", &["a~b"], &["c"]),
    (r"^[a--b]$", &[], &["a"]),
    (r"^[]a]+$", &["]a"], &["b"]),
    (r"^[^]a]+$", &["b"], &["]"]),
    (r"^[\]\-\\]+$", &["]-\\"], &["a"]),
    (r"^[[:alpha:]1]+$", &["ab1"], &["é"]),
    (r"^[[:^alpha:]]+$", &["12"], &["a"]),
    (r"^\Qa.b*\E+$", &["a.b*", "a.b**"], &["axb"]),
    (r"^\101\x42\x{43}$", &["ABC"], &["abc"]),
    (r"^\p{Greek}\p{^Greek}\P{^Greek}\pL$", &["αaβz"], &["aααz"]),
    (r"^a{2}b{1,}c{0,1}$", &["aabb", "aabc"], &["ab", "aabcc"]),
    (r"^a{,2}b{x}{01}$", &["a{,2}b{x}{01}"], &["aab"]),
    (r"^\<\>\_\%\@$", &["<>_%@"], &["x"]),
    (r"^.$", &["é", "😀"], &["\n", "ab"]),
    (r"(?s)^.$", &["\n"], &["ab"]),
    (r"(?m)^b$", &["a\nb"], &["ab"]),
    (r"(?i)^straSSE$", &["STRASSE", "straſſe"], &["strase"]),
    (r"^(?:a|(?P<x>b)|(?<y>c))$", &["a", "b", "c"], &["d"]),
    (r"a$", &["ba"], &["a\n"]),
    (r"^[a-b-c]$", &["a", "-", "c"], &["d"]),
    (r"^[+--]$", &[",", "-"], &["."]),
    (r"^[--/]$", &[".", "-"], &["+"]),
    (r"^[\pL-]$", &["é", "-"], &["1"]),
    (r"^[\101-C\x45-\x{46}]$", &["B", "F"], &["D"]),
    (r"^\07\0$", &["\x07\0"], &["7"]),
    (r"^\x{1F600}$", &["😀"], &["x"]),
    (r"^[^a]$", &["\n"], &["a"]),
    (r"^\-\/\ $", &["-/ "], &["x"]),
    (r"^\Qa", &["ab"], &["b"]),
    (r"^(?i-s:a)B$", &["AB"], &["Ab"]),
    (r"(?i)^\w$", &["\u{212a}"], &["é"]),
    (r"^(|a)()$", &["", "a"], &["b"]),
    (r"^\pN\p{Lu}\p{Han}$", &["1A漢"], &["aA漢"]),
];

#[test]
fn go_regexps_mean_what_go_means() {
    for (pattern, matching, others) in PATTERNS {
        let regex = match pattern::compile(pattern) {
            Ok(regex) => regex,
            // A range that runs backwards is an error in Go, too.
            Err(error) => {
                assert!(matching.is_empty(), "{pattern}: {error}");
                continue;
            }
        };
        for (texts, expected) in [(matching, true), (others, false)] {
            for text in *texts {
                assert_eq!(regex.is_match(text.as_bytes()), expected, "{pattern} on {text:?}");
            }
        }
    }
    for pattern in [r"\1", r"\8", r"(?=a)", r"a**b(", r"[a", r"[[:foo:]]", r"\", r"[\b]", r"(?<!a)b", r"\C", r"[z-a]"] {
        assert!(pattern::compile(pattern).is_err(), "{pattern}");
    }
}

#[test]
fn default_priority_is_the_length_without_deep_stars() {
    for (text, expected) in [
        ("Host(`a`)", 9),
        ("Host(`**.a`)", 10),
        ("!Host(`**.a`)", 13),
        ("Host(`**.a`) || Host(`**.b`)", 24),
        ("Path(`/ä`)", 11),
    ] {
        assert_eq!(Rule::parse(text).unwrap().default_priority(), expected, "{text}");
    }
}

/// What hostile texts are made of.
const PIECES: [&str; 48] = [
    "Host",
    "HostRegexp",
    "Path",
    "PathPrefix",
    "PathRegexp",
    "Method",
    "Header",
    "HeaderRegexp",
    "Query",
    "QueryRegexp",
    "ClientIP",
    "(",
    ")",
    "(`",
    "`)",
    "&&",
    "||",
    "!",
    "\"",
    "`",
    "\\",
    "\\x",
    "\\u12",
    "\\377",
    ",",
    " ",
    "\n",
    "\0",
    "/",
    "*.",
    "**.",
    "%",
    "%2",
    "%2F",
    "[",
    "]",
    "[^",
    "[:",
    ":]",
    "{",
    "}",
    "{1,",
    "\\Q",
    "\\p{^",
    "(?",
    "é",
    "😀",
    "a",
];

#[test]
fn hostile_rules_and_requests_never_panic() {
    for seed in 0..3000_u64 {
        let mut random = fastrand::Rng::with_seed(seed);
        let piece = |random: &mut fastrand::Rng| PIECES[random.usize(..PIECES.len())];
        let junk: String = (0..random.usize(..24)).map(|_| piece(&mut random)).collect();
        let _ = Rule::parse(&junk);
        let _ = pattern::compile(&junk);
        // Values of junk reach every check behind the syntax.
        let value = junk.replace('`', "");
        for (matcher, key) in [
            ("Host", ""),
            ("Path", ""),
            ("PathRegexp", ""),
            ("ClientIP", ""),
            ("Header", "`x`,"),
            ("Query", "`x`,"),
            ("Header", ""),
        ] {
            let _ = Rule::parse(&format!("{matcher}({key}`{value}`)"));
        }
        let view = RequestView {
            method: &junk,
            host: &junk,
            path: &junk,
            query: &junk,
            headers: &HeaderMap::new(),
            client_ip: std::net::Ipv4Addr::LOCALHOST.into(),
        };
        let rule = Rule::parse("Host(`*.a`) || Path(`/%2`) || Query(`a`) || HostRegexp(`^e`) && Method(`A`)").unwrap();
        let _ = rule.matches(&view);
    }
}
