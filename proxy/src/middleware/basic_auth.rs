//! Traefik's `basicAuth`: users with passwords as `htpasswd` writes them. To check one is slow by design (bcrypt takes tens of
//! milliseconds), so that `exchange` does it away from the worker; what was right once is remembered, as a digest only.

use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE};
use http::request::Parts;
use md5::Md5;
use sha1::Sha1;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{Answer, text};

/// Right credentials that are remembered; beyond, all are forgotten.
const KNOWN_MAX: usize = 4096;

/// A second, about: more would be an attack of the operator on themselves.
const COST_MAX: u32 = 14;

/// Traefik's `basicAuth`.
#[derive(Debug, Clone, PartialEq)]
pub struct BasicAuth {
    /// Who is let on; of two of a name the last counts.
    pub users: Vec<User>,
    /// `realm`.
    pub realm: String,
    /// `removeHeader`: the server gets no password.
    pub remove_header: bool,
    /// `headerField`: the server gets the name in it.
    pub header_field: Option<HeaderName>,
}

/// One user.
#[derive(Clone, PartialEq)]
pub struct User {
    /// The name.
    pub name: String,
    secret: String,
}

/// A hash is shown to nobody.
impl fmt::Debug for User {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "User({})", self.name)
    }
}

impl User {
    /// Reads a line of `htpasswd`.
    ///
    /// # Errors
    /// What is wrong with it, without the hash.
    pub fn parse(line: &str) -> Result<Self, String> {
        let (name, secret) = line.split_once(':').filter(|(name, _)| !name.is_empty()).ok_or("is no name:hash")?;
        if secret.contains(':') {
            return Err(format!("`{name}` has more behind its hash than there may be"));
        }
        if !is_known(secret) {
            return Err(format!("`{name}` has no hash of bcrypt, apr1 or SHA; write it with `htpasswd -nB {name}`"));
        }
        if is_bcrypt(secret) && cost(secret).is_none_or(|cost| cost > COST_MAX) {
            return Err(format!("`{name}` has a hash of bcrypt whose cost is none up to {COST_MAX}"));
        }
        Ok(Self { name: name.to_owned(), secret: secret.to_owned() })
    }

    /// A line of `htpasswd`, for a password that is kept as it is anyway.
    #[must_use]
    pub fn line(name: &str, password: &[u8]) -> String {
        format!("{name}:{{SHA}}{}", STANDARD.encode(Sha1::digest(password)))
    }
}

fn is_bcrypt(secret: &str) -> bool {
    ["$2a$", "$2b$", "$2x$", "$2y$"].iter().any(|prefix| secret.starts_with(prefix))
}

/// bcrypt's rounds, as a power of two.
fn cost(secret: &str) -> Option<u32> {
    secret.split('$').nth(2)?.parse().ok()
}

fn is_known(secret: &str) -> bool {
    is_bcrypt(secret) || ["$apr1$", "$1$", "{SHA}"].iter().any(|prefix| secret.starts_with(prefix))
}

/// Whether the password is the hash's.
fn is_right(password: &[u8], secret: &str) -> bool {
    let hashed = if is_bcrypt(secret) {
        return bcrypt::verify(password, secret).unwrap_or(false);
    } else if let Some(digest) = secret.strip_prefix("{SHA}") {
        (STANDARD.encode(Sha1::digest(password)), digest)
    } else {
        let mut parts = secret.splitn(4, '$').skip(1);
        let (Some(magic), Some(salt), Some(digest)) = (parts.next(), parts.next(), parts.next()) else { return false };
        (md5_crypt(password, salt.as_bytes(), magic), digest)
    };
    // Digests of both, so that the comparison takes as long whatever they have in common.
    Sha256::digest(hashed.0) == Sha256::digest(hashed.1)
}

/// Poul-Henning Kamp's MD5-crypt, as Apache's `apr1` and as `crypt(3)`'s `1`, without the prefix.
fn md5_crypt(password: &[u8], salt: &[u8], magic: &str) -> String {
    let salt = salt.get(..8).unwrap_or(salt);
    let mut inner = Md5::new();
    for part in [password, salt, password] {
        inner.update(part);
    }
    let inner = inner.finalize();
    let mut outer = Md5::new();
    outer.update(password);
    outer.update(format!("${magic}$"));
    outer.update(salt);
    for at in (0..password.len()).step_by(16) {
        let length = (password.len() - at).min(16);
        outer.update(inner.get(..length).unwrap_or_default());
    }
    let mut bits = password.len();
    while bits > 0 {
        outer.update(if bits & 1 == 1 { &[0][..] } else { password.get(..1).unwrap_or_default() });
        bits >>= 1;
    }
    let mut digest = outer.finalize();
    for round in 0..1000 {
        let mut next = Md5::new();
        let (first, last): (&[u8], &[u8]) = if round % 2 == 1 { (password, &digest) } else { (&digest, password) };
        next.update(first);
        if round % 3 != 0 {
            next.update(salt);
        }
        if round % 7 != 0 {
            next.update(password);
        }
        next.update(last);
        digest = next.finalize();
    }
    let byte = |at: usize| u32::from(digest.get(at).copied().unwrap_or(0));
    let mut text = String::with_capacity(22);
    for [a, b, c] in [[0, 6, 12], [1, 7, 13], [2, 8, 14], [3, 9, 15], [4, 10, 5]] {
        to_64(&mut text, byte(a) << 16 | byte(b) << 8 | byte(c), 4);
    }
    to_64(&mut text, byte(11), 2);
    text
}

/// The alphabet of `crypt(3)`, the lowest six bits first.
fn to_64(text: &mut String, mut value: u32, count: usize) {
    const ALPHABET: &[u8; 64] = b"./0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    for _ in 0..count {
        let digit = usize::try_from(value & 63).unwrap_or(0);
        text.push(ALPHABET.get(digit).map_or('.', |byte| char::from(*byte)));
        value >>= 6;
    }
}

/// One that knows its users, and what it has checked.
#[derive(Debug)]
pub struct Authenticator {
    settings: BasicAuth,
    challenge: HeaderValue,
    /// Of this process, so that a digest tells nothing elsewhere.
    key: [u64; 4],
    known: ArcSwap<HashSet<[u8; 32]>>,
    turns: Turns,
}

/// Checks that wait for one who makes them: five seconds' worth of an expensive hash. Beyond, clients are told to come later.
const WAITING_MAX: usize = 64;

/// Checks of one that knows users: one after the other, so that a flood of wrong passwords for it leaves others their turns.
#[derive(Debug)]
pub(crate) struct Turns {
    own: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { own: Arc::new(Semaphore::new(1)), waiting: AtomicUsize::new(0) }
    }
}

impl Turns {
    /// One that waits, unless too many do.
    pub(crate) fn enter(&self) -> Option<Waits<'_>> {
        let waits = Waits(self);
        (self.waiting.fetch_add(1, Ordering::Relaxed) < WAITING_MAX).then_some(waits)
    }

    /// The turn of the next one, for as long as it is held.
    pub(crate) async fn next(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.own).acquire_owned().await.ok()
    }
}

/// Counts one that waits, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Waits<'t>(&'t Turns);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Credentials that have to be checked.
#[derive(Debug)]
pub struct Check {
    user: HeaderValue,
    password: Vec<u8>,
    digest: [u8; 32],
    /// None: there is no such user. To say so must take as long.
    secret: Option<String>,
    decoy: String,
}

impl Authenticator {
    /// One that has checked nothing.
    #[must_use]
    pub fn new(settings: &BasicAuth) -> Self {
        let quoted: String = settings.realm.chars().filter(|c| !matches!(c, '"' | '\\') && !c.is_control()).collect();
        let challenge = HeaderValue::from_str(&format!("Basic realm=\"{quoted}\""));
        let challenge = challenge.unwrap_or(HeaderValue::from_static("Basic realm=\"traefik\""));
        let hasher = RandomState::new();
        let key = std::array::from_fn(|part| hasher.hash_one(part));
        Self { settings: settings.clone(), challenge, key, known: ArcSwap::default(), turns: Turns::default() }
    }

    /// Who is checked when.
    pub(crate) fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Lets on whose credentials were right before; others have to be checked.
    ///
    /// # Errors
    /// The question for credentials, where there are none.
    pub fn request(&self, parts: &mut Parts) -> Result<Option<Check>, Box<Answer>> {
        let check = self.credentials(parts).ok_or_else(|| self.refusal())?;
        if self.is_known(&check) {
            self.accept(parts, &check);
            return Ok(None);
        }
        Ok(Some(check))
    }

    fn credentials(&self, parts: &Parts) -> Option<Check> {
        let header = text(parts, &AUTHORIZATION);
        let (scheme, encoded) = header.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("basic") {
            return None;
        }
        let decoded = STANDARD.decode(encoded.trim()).ok()?;
        let colon = memchr::memchr(b':', &decoded)?;
        let (name, password) = decoded.split_at_checked(colon)?;
        let mut digest = Sha256::new();
        for part in self.key {
            digest.update(part.to_le_bytes());
        }
        digest.update(&decoded);
        let secret = |user: &User| user.secret.clone();
        Some(Check {
            user: HeaderValue::from_bytes(name).ok()?,
            password: password.get(1..).unwrap_or_default().to_vec(),
            digest: digest.finalize().into(),
            secret: self.settings.users.iter().rev().find(|user| user.name.as_bytes() == name).map(secret),
            decoy: self.settings.users.first().map(secret).unwrap_or_default(),
        })
    }

    /// Whether they were right before.
    #[must_use]
    pub fn is_known(&self, check: &Check) -> bool {
        self.known.load().contains(&check.digest)
    }

    /// Remembers that they are right.
    pub fn learn(&self, check: &Check) {
        self.known.rcu(|known| {
            let mut known = if known.len() < KNOWN_MAX { HashSet::clone(known) } else { HashSet::new() };
            known.insert(check.digest);
            Arc::new(known)
        });
    }

    /// Lets the request on.
    pub fn accept(&self, parts: &mut Parts, check: &Check) {
        if let Some(field) = &self.settings.header_field {
            parts.headers.insert(field, check.user.clone());
        }
        if self.settings.remove_header {
            parts.headers.remove(AUTHORIZATION);
        }
    }

    /// The question for credentials.
    #[must_use]
    pub fn refusal(&self) -> Box<Answer> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        headers.insert(WWW_AUTHENTICATE, self.challenge.clone());
        let body = bytes::Bytes::from_static(b"401 Unauthorized\n");
        Box::new(Answer { status: StatusCode::UNAUTHORIZED, headers, body })
    }
}

impl Check {
    /// Whether they are right: slow, and not for a worker.
    #[must_use]
    pub fn is_right(&self) -> bool {
        match &self.secret {
            Some(secret) => is_right(&self.password, secret),
            None => {
                std::hint::black_box(is_right(&self.password, &self.decoy));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::middleware::tests::parts;

    fn basic(credentials: &str) -> String {
        format!("Basic {}", STANDARD.encode(credentials))
    }

    #[test]
    fn a_flood_for_one_leaves_others_their_turns() {
        let (flooded, other) = (Turns::default(), Turns::default());
        let now = |turns: &Turns| Arc::clone(&turns.own).try_acquire_owned().ok();
        let turn = now(&flooded);
        let mut waits: Vec<_> = (0..WAITING_MAX).map(|_| flooded.enter().unwrap()).collect();
        assert!(turn.is_some() && now(&flooded).is_none() && flooded.enter().is_none());
        assert!(now(&other).is_some() && other.enter().is_some());
        drop((turn, waits.pop()));
        assert!(now(&flooded).is_some() && flooded.enter().is_some());
    }

    /// By htpasswd, the first two of `test`; what follows is of other passwords or of none.
    const USERS: [(&str, &str); 5] = [
        ("apr", "$apr1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"),
        ("sha", "{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M="),
        ("two_y", "$2y$05$c4WoMPo3SXsafkva.HHa6uXQZWr7oboPiC2bT/r7q1BB8I2s0BRqC"),
        ("md5", "$1$H6uskkkW$IgXLP6ewTrSuBkTrqE8wj/"),
        ("broken", "$apr1$only"),
    ];

    fn authenticator(edit: impl Fn(&mut BasicAuth)) -> Authenticator {
        let users = USERS.iter().map(|(name, hash)| User::parse(&format!("{name}:{hash}")).unwrap()).collect();
        let mut settings = BasicAuth { users, realm: "a \"b\"".to_owned(), remove_header: false, header_field: None };
        edit(&mut settings);
        Authenticator::new(&settings)
    }

    #[test]
    fn a_line_is_what_htpasswd_writes() {
        let (name, hash) = USERS[1];
        assert_eq!(User::line(name, b"test"), format!("{name}:{hash}"));
    }

    #[test]
    fn passwords_are_checked_in_every_form_of_htpasswd() {
        let auth = authenticator(|_| ());
        for (credentials, right) in [
            ("apr:test", true),
            ("apr:Test", false),
            ("sha:test", true),
            ("sha:", false),
            ("two_y:wrong", false),
            ("broken:test", false),
            ("nobody:test", false),
            ("APR:test", false),
        ] {
            let mut parts = parts("GET", "/", &[("authorization", &basic(credentials))]);
            let check = auth.request(&mut parts).unwrap().unwrap();
            assert_eq!(check.is_right(), right, "{credentials}");
        }
        let hash = bcrypt::hash("geheim", 4).unwrap();
        for prefix in ["$2a$", "$2b$", "$2y$"] {
            let secret = format!("{prefix}{}", &hash[4..]);
            assert!(is_right(b"geheim", &secret) && !is_right(b"geheim2", &secret), "{prefix}");
        }
        // By `openssl passwd -1` and `-apr1`, with salts shorter than eight and passwords longer than sixteen.
        for (password, secret) in [
            ("password", "$1$saltsalt$qjXMvbEw8oaL.CzflDtaK/"),
            ("a password longer than sixteen", "$apr1$ab$5hsYmK040eK4kQbZnbd1R."),
        ] {
            let magic = secret.split('$').nth(1).unwrap();
            let salt = secret.split('$').nth(2).unwrap();
            let made = format!("${magic}${salt}${}", md5_crypt(password.as_bytes(), salt.as_bytes(), magic));
            assert_eq!(made, secret);
        }
    }

    #[test]
    fn who_says_nothing_right_is_asked() {
        let auth = authenticator(|_| ());
        for header in ["", "Basic", "Basic !", "Bearer abc", &format!("Basic {}", STANDARD.encode("nocolon"))] {
            let answer = auth.request(&mut parts("GET", "/", &[("authorization", header)])).unwrap_err();
            assert_eq!((answer.status.as_u16(), &*answer.body), (401, &b"401 Unauthorized\n"[..]), "{header}");
            assert_eq!(answer.headers[WWW_AUTHENTICATE], "Basic realm=\"a b\"");
        }
    }

    #[test]
    fn what_was_right_once_needs_no_check_and_another_password_does() {
        let auth = authenticator(|settings| {
            settings.remove_header = true;
            settings.header_field = Some(HeaderName::from_static("x-user"));
        });
        let ask = |credentials: &str| {
            let header = basic(credentials);
            let mut parts = parts("GET", "/", &[("authorization", &header), ("x-user", "forged")]);
            (auth.request(&mut parts).unwrap(), parts)
        };
        auth.learn(&ask("apr:test").0.unwrap());
        let (check, parts) = ask("apr:test");
        assert!(check.is_none() && !parts.headers.contains_key(AUTHORIZATION));
        assert_eq!(parts.headers.get_all("x-user").iter().collect::<Vec<_>>(), ["apr"]);
        for other in ["apr:Test", "sha:test", "apr:test:"] {
            assert!(ask(other).0.is_some(), "{other}");
        }
        for number in 0..=KNOWN_MAX {
            auth.learn(&ask(&format!("apr:{number}")).0.unwrap());
        }
        assert!(auth.known.load().len() <= KNOWN_MAX);
    }

    #[test]
    fn lines_that_are_no_user_are_told_without_their_hash() {
        for (line, want) in [
            ("", "is no name:hash"),
            ("nobody", "is no name:hash"),
            (":$apr1$a$b", "is no name:hash"),
            ("a:$apr1$s$h:realm", "`a` has more behind its hash than there may be"),
            ("a:$2y$31$x", "`a` has a hash of bcrypt whose cost is none up to 14"),
            ("a:plainpassword", "`a` has no hash of bcrypt, apr1 or SHA; write it with `htpasswd -nB a`"),
        ] {
            assert_eq!(User::parse(line).unwrap_err(), want);
        }
        let user = User::parse("a:{SHA}qUqP5cyxm6YcTAhz05Hph5gvu9M=").unwrap();
        assert_eq!(format!("{user:?}"), "User(a)");
    }
}
