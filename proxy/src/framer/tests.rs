//! The scanner's behaviour as tables, its indifference to reads as a property, and hyper's parser as an oracle.

use proptest::prelude::*;

use super::*;

const LIMITS: Limits = Limits { head_bytes: 64 * 1024, headers: 100 };

type Outcome = (Vec<Event>, Result<(), Refusal>);

/// Feeds the stream in reads that end at `cuts`.
fn feed(mut framer: Framer, stream: &[u8], cuts: &[usize]) -> (Outcome, Framer) {
    let mut events = Vec::new();
    let mut from = 0;
    let mut end = Ok(());
    for to in cuts.iter().copied().chain([stream.len()]) {
        end = framer.feed(&stream[from..to], from as u64, &mut |event| events.push(event));
        if end.is_err() {
            break;
        }
        from = to;
    }
    ((events, end), framer)
}

/// Feeds the stream whole, byte by byte and in two reads cut anywhere: all must agree.
fn scan(make: impl Fn() -> Framer, stream: &[u8]) -> Outcome {
    let (whole, _) = feed(make(), stream, &[]);
    let bytes: Vec<_> = (1..stream.len()).collect();
    assert_eq!(feed(make(), stream, &bytes).0, whole, "byte by byte: {:?}", stream.escape_ascii().to_string());
    if stream.len() < 2000 {
        for cut in &bytes {
            assert_eq!(feed(make(), stream, &[*cut]).0, whole, "cut at {cut}: {:?}", stream.escape_ascii().to_string());
        }
    }
    whole
}

fn requests(stream: impl AsRef<[u8]>) -> Outcome {
    scan(|| Framer::requests(LIMITS), stream.as_ref())
}

fn response(asked: Asked, stream: impl AsRef<[u8]>) -> Outcome {
    let make = || {
        let mut framer = Framer::responses(Limits::UPSTREAM);
        framer.expect(asked);
        framer
    };
    scan(make, stream.as_ref())
}

/// One word per event.
fn brief(events: &[Event]) -> String {
    let words = events.iter().map(|event| match event {
        Event::MessageStart { offset } => format!("start@{offset}"),
        Event::HeadEnd(head) => format!("{:?}@{}", head.body, head.end),
        Event::Interim(head) => format!("interim{}@{}", head.status, head.end),
        Event::BodyEnd { offset } => format!("end@{offset}"),
    });
    words.collect::<Vec<_>>().join(" ")
}

fn check(stream: &str, expected: &str) {
    let (events, end) = requests(stream);
    assert_eq!((brief(&events).as_str(), end), (expected, Ok(())), "{stream:?}");
}

fn check_response(asked: Asked, stream: &str, expected: &str) {
    let (events, end) = response(asked, stream);
    assert_eq!((brief(&events).as_str(), end), (expected, Ok(())), "{stream:?}");
}

#[track_caller]
fn check_refused(stream: impl AsRef<[u8]>, reason: Reason, offset: usize) {
    let stream = stream.as_ref();
    let refusal = requests(stream).1.expect_err(&format!("accepted: {}", stream.escape_ascii()));
    assert_eq!((refusal.reason, refusal.offset), (reason, offset as u64), "{}", stream.escape_ascii());
}

/// A request with these header lines besides Host, which is refused for the line that begins with `^` (removed).
#[track_caller]
fn check_field(lines: &str, reason: Reason) {
    let stream = format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
    let offset = stream.find('^').expect("a mark in the row");
    check_refused(stream.replace('^', ""), reason, offset);
}

#[test]
fn boundaries_of_requests() {
    check("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "start@0 None@27 end@27");
    check("GET / HTTP/1.0\r\n\r\n", "start@0 None@18 end@18");
    check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc", "start@0 Length(3)@47 end@50");
    check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nab", "start@0 Length(3)@47");
    check("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", "start@0 Length(0)@47 end@47");
    check("POST / HTTP/1.1\r\nHost: a\r\ncontent-LENGTH:\t003 \r\n\r\nabc", "start@0 Length(3)@50 end@53");
    check("POST / HTTP/1.0\r\nContent-Length: 1\r\n\r\na", "start@0 Length(1)@38 end@39");
    let chunked = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked \r\n\r\n";
    assert_eq!(chunked.len(), 57);
    check(&format!("{chunked}0\r\n\r\n"), "start@0 Chunked@57 end@62");
    check(&format!("{chunked}3\r\nabc\r\n0\r\n\r\n"), "start@0 Chunked@57 end@70");
    check(&format!("{chunked}00003;a=b;c=\"d\te\"\r\nabc\r\n000\r\n\r\n"), "start@0 Chunked@57 end@88");
    check(&format!("{chunked}3 ; a\r\nabc\r\n0\r\n\r\n"), "start@0 Chunked@57 end@74");
    check(
        &format!("{chunked}A\r\n0123456789\r\na\r\n\r\n\r\n\r\n\r\n\r\n\r\n0\r\nX-Sum: 1\r\nB:\r\n\r\n"),
        "start@0 Chunked@57 end@106",
    );
    check("GET /\u{e4} HTTP/1.1\r\nHost:\r\nX-\u{7c}:\r\nA: \u{e4}\t b \r\n\r\n", "start@0 None@44 end@44");
    check("OPTIONS * HTTP/1.1\r\nhost: [::1]:80\r\n\r\n", "start@0 None@38 end@38");
    check("G", "start@0");
    check("", "");
}

#[test]
fn pipelined_requests_each_have_their_own_boundaries() {
    let get = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let post = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nGET ";
    let chunked = "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n\r\n\r\n0\r\n\r\n";
    check(
        &format!("{get}{post}{chunked}\r\n{get}P"),
        "start@0 None@27 end@27 start@27 Length(4)@74 end@78 start@78 Chunked@133 end@145 start@147 None@174 end@174 start@174",
    );
}

#[test]
fn empty_lines_before_a_request_are_not_its_start() {
    check("\r\n", "");
    check("\r\n\r\nGET / HTTP/1.0\r\n\r\n", "start@4 None@22 end@22");
    check("\r\n\r\n\r\n\r\nG", "start@8");
    check_refused("\r\n\r\n\r\n\r\n\r\nGET / HTTP/1.0\r\n\r\n", Reason::EmptyLines, 9);
    check_refused("\nGET / HTTP/1.0\r\n\r\n", Reason::BareLf, 0);
    check_refused("\rGET / HTTP/1.0\r\n\r\n", Reason::BareCr, 0);
    check_refused("\r\n\r\rGET / HTTP/1.0\r\n\r\n", Reason::BareCr, 2);
}

#[test]
fn a_request_line_is_method_target_and_version() {
    for (line, reason, offset) in [
        ("GET  / HTTP/1.1", Reason::BadRequestLine, 4),
        ("GET /  HTTP/1.1", Reason::BadRequestLine, 6),
        ("GET / HTTP/1.1 ", Reason::BadRequestLine, 6),
        ("GET /a b HTTP/1.1", Reason::BadRequestLine, 7),
        ("GET /", Reason::BadRequestLine, 5),
        ("GET / ", Reason::BadRequestLine, 6),
        ("GET", Reason::BadRequestLine, 3),
        (" GET / HTTP/1.1", Reason::BadMethod, 0),
        ("GE\tT / HTTP/1.1", Reason::BadMethod, 2),
        ("G@T / HTTP/1.1", Reason::BadMethod, 1),
        ("GET\t/ HTTP/1.1", Reason::BadMethod, 3),
        ("G\u{e4}T / HTTP/1.1", Reason::BadMethod, 1),
        ("GET /\ta HTTP/1.1", Reason::BadTarget, 5),
        ("GET /a\x7f HTTP/1.1", Reason::BadTarget, 6),
        ("GET /a\x1b HTTP/1.1", Reason::BadTarget, 6),
        ("GET / HTTP/1.1\t", Reason::BadVersion, 6),
        ("GET / http/1.1", Reason::BadVersion, 6),
        ("GET / HTTP/1", Reason::BadVersion, 6),
        ("GET / HTTP/1.10", Reason::BadVersion, 6),
        ("GET / HTTP/11", Reason::BadVersion, 6),
        ("GET / HTTP/+1.1", Reason::BadVersion, 6),
        ("GET / HTTPS/1.1", Reason::BadVersion, 6),
        ("GET / ICE/1.0", Reason::BadVersion, 6),
        ("GET / HTTP/0.9", Reason::UnsupportedVersion, 6),
        ("GET / HTTP/1.2", Reason::UnsupportedVersion, 6),
        ("GET / HTTP/2.0", Reason::UnsupportedVersion, 6),
        ("PRI * HTTP/2.0", Reason::UnsupportedVersion, 6),
        ("GE\0T / HTTP/1.1", Reason::Nul, 2),
        ("GET /\0 HTTP/1.1", Reason::Nul, 5),
        ("GET / HTTP/1.1\0", Reason::Nul, 14),
        ("GET / HTTP/1.1\r", Reason::BareCr, 14),
        ("GET /\r HTTP/1.1", Reason::BareCr, 5),
        ("GE\rT / HTTP/1.1", Reason::BareCr, 2),
    ] {
        check_refused(format!("{line}\r\nHost: a\r\n\r\n"), reason, offset);
    }
    check_refused("GET / HTTP/1.1\nHost: a\r\n\r\n", Reason::BareLf, 14);
    check_refused("GET\n", Reason::BareLf, 3);
    check_refused("GET /\n", Reason::BareLf, 5);
}

#[test]
fn ambiguous_framing_is_refused() {
    for value in
        ["", " ", "+5", "-5", "5,5", "5, 5", "5 5", "0x5", "5;", "5.0", "\"5\"", "five", "\u{0665}", "1e1", "_5"]
    {
        check_field(&format!("^Content-Length: {value}\r\n"), Reason::BadLength);
    }
    for value in ["9223372036854775808", "18446744073709551615", "18446744073709551616", "99999999999999999999999999"] {
        check_field(&format!("^Content-Length: {value}\r\n"), Reason::LengthOverflow);
    }
    check_field("Content-Length: 5\r\n^Content-Length: 5\r\n", Reason::ManyLengths);
    check_field("Content-Length: 5\r\n^content-length: 6\r\n", Reason::ManyLengths);
    check_field("Content-Length: 0\r\nX: y\r\n^Content-Length: 0\r\n", Reason::ManyLengths);
    check_field("Content-Length: 5\r\n^Transfer-Encoding: chunked\r\n", Reason::LengthAndEncoding);
    check_field("Transfer-Encoding: chunked\r\n^Content-Length: 5\r\n", Reason::LengthAndEncoding);
    for value in [
        "",
        "identity",
        "gzip",
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ", chunked",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "chunked\u{e4}",
        "chun ked",
        "c\u{212a}unked",
    ] {
        check_field(&format!("^Transfer-Encoding: {value}\r\n"), Reason::BadEncoding);
    }
    check_field("Transfer-Encoding: chunked\r\n^Transfer-Encoding: chunked\r\n", Reason::BadEncoding);
    check_field("^Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", Reason::BadEncoding);
    check_field("^Transfer_Encoding: chunked\r\n", Reason::UnderscoreFraming);
    check_field("^CONTENT_LENGTH: 5\r\n", Reason::UnderscoreFraming);
    check_refused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::EncodingOnHttp10, 17);
    check(
        "PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 9223372036854775807\r\n\r\n",
        "start@0 Length(9223372036854775807)@64",
    );
}

#[test]
fn malformed_header_lines_are_refused() {
    check_field("A: b^\nC: d\r\n", Reason::BareLf);
    check_field("A: b^\rC: d\r\n", Reason::BareCr);
    check_field("A: b^\r\r\n", Reason::BareCr);
    check_field("A:^\n", Reason::BareLf);
    check_field("A^\n", Reason::BareLf);
    check_field("A^\rB: c\r\n", Reason::BareCr);
    check_field("^\n", Reason::BareLf);
    check_field("^\rA: b\r\n", Reason::BareCr);
    check_field("A: b\r\n^ folded\r\n", Reason::Folded);
    check_field("A: b\r\n^\tfolded: c\r\n", Reason::Folded);
    check_field("^ A: b\r\n", Reason::Folded);
    check_field("A^ : b\r\n", Reason::SpaceBeforeColon);
    check_field("A^\t: b\r\n", Reason::SpaceBeforeColon);
    check_field("Transfer-Encoding^ : chunked\r\n", Reason::SpaceBeforeColon);
    check_field("Content-Length^\t: 5\r\n", Reason::SpaceBeforeColon);
    check_field("A^ B: c\r\n", Reason::SpaceBeforeColon);
    check_field("^: b\r\n", Reason::EmptyName);
    check_field("A^\r\n", Reason::NoColon);
    check_field("A^(b): c\r\n", Reason::BadName);
    check_field("^\u{e4}: c\r\n", Reason::BadName);
    check_field("Content-Length^\u{a0}: 5\r\n", Reason::BadName);
    check_field("A@longer-name-than-a-word: c\r\n".replacen('@', "^@", 1).as_str(), Reason::BadName);
    check_field("A: b^\0c\r\n", Reason::Nul);
    check_field("A^\0: c\r\n", Reason::Nul);
    for control in ["\x01", "\x08", "\x0b", "\x0c", "\x1b", "\x1f", "\x7f"] {
        check_field(&format!("A: b^{control}c\r\n"), Reason::Control);
        check_field(&format!("A: \t{}\t^{control}\r\n", "long ".repeat(9)), Reason::Control);
        check_field(&format!("Transfer-Encoding: ^{control}chunked\r\n"), Reason::Control);
    }
}

#[test]
fn every_byte_is_judged_as_the_grammar_says_wherever_it_stands() {
    for byte in 0..=255_u8 {
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        let text = byte == b'\t' || (byte >= b' ' && byte != 0x7f);
        let target = byte > b' ' && byte != 0x7f;
        for length in 1..40 {
            for at in [0, length / 2, length - 1] {
                let with = |other: &[u8]| {
                    let mut bytes = other.repeat(length);
                    bytes[at] = byte;
                    bytes
                };
                let name = [b"GET / HTTP/1.0\r\n".as_slice(), &with(b"n"), b"x: y\r\n\r\n"].concat();
                let value = [b"GET / HTTP/1.0\r\nn:".as_slice(), &with(b"v"), b"\r\n\r\n"].concat();
                let path = [b"GET /".as_slice(), &with(b"p"), b" HTTP/1.0\r\n\r\n"].concat();
                let method = [&with(b"M"), b"X / HTTP/1.0\r\n\r\n".as_slice()].concat();
                // A colon only ends the name earlier, unless nothing is before it.
                let named = token || (byte == b':' && at > 0);
                for (stream, good) in [(name, named), (value, text), (path, target), (method, token)] {
                    let ((_, end), _) = feed(Framer::requests(LIMITS), &stream, &[]);
                    let cr_lf = stream.starts_with(b"\r\n");
                    assert_eq!(end.is_ok(), good || cr_lf, "{}", stream.escape_ascii());
                }
            }
        }
    }
}

#[test]
fn http_1_1_has_exactly_one_host_and_http_1_0_at_most_one() {
    check_refused("GET / HTTP/1.1\r\n\r\n", Reason::NoHost, 16);
    check_refused("GET / HTTP/1.1\r\nX-Host: a\r\nHos: b\r\n\r\n", Reason::NoHost, 35);
    check_field("^Host: a\r\n", Reason::ManyHosts);
    check_field("^HOST: b\r\n", Reason::ManyHosts);
    check_refused("GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n", Reason::ManyHosts, 25);
    for host in ["a b", "a,b", "a/b", "user@a", "a?b", "a#b", "a\\b", "\u{e4}", "a\tb", "<a>", "a\"", "{a}"] {
        check_refused(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Reason::BadHost, 16);
    }
    for host in ["a", "A.b-c_d:80", "[2001:db8::1%25eth0]:80", "127.0.0.1", "", " \t", "a.", "%41"] {
        let ((events, end), _) =
            feed(Framer::requests(LIMITS), format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes(), &[]);
        assert_eq!((events.len(), end), (3, Ok(())), "{host:?}");
    }
}

#[test]
fn malformed_chunks_are_refused_in_the_body() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    for (body, reason) in [
        ("^\r\n", Reason::BadChunkSize),
        ("^;a\r\n", Reason::BadChunkSize),
        ("^ 5\r\n", Reason::BadChunkSize),
        ("^+5\r\n", Reason::BadChunkSize),
        ("^-5\r\n", Reason::BadChunkSize),
        ("0^x5\r\n", Reason::BadChunkSize),
        ("5^ \r\n", Reason::BadChunkSize),
        ("5^\t\r\n", Reason::BadChunkSize),
        ("5^ 5\r\n", Reason::BadChunkSize),
        ("5^,\r\n", Reason::BadChunkSize),
        ("5^g\r\n", Reason::BadChunkSize),
        ("5^_0\r\n", Reason::BadChunkSize),
        ("5^\n12345\n0\n\n", Reason::BareLf),
        ("5^\rX\n", Reason::BareCr),
        ("5;a^\nb\r\n", Reason::BareLf),
        ("5;a^\rb\r\n", Reason::BareCr),
        ("5;a^\0\r\n", Reason::Nul),
        ("5;a^\x01\r\n", Reason::Control),
        ("3\r\nabc^d\r\n", Reason::ChunkEnd),
        ("3\r\nabc^\n", Reason::ChunkEnd),
        ("3\r\nabc\r^\r\n", Reason::ChunkEnd),
        ("3\r\nabc\r^X", Reason::ChunkEnd),
        ("0\r\n^\n", Reason::BareLf),
        ("0\r\n^\rX\n", Reason::BareCr),
        ("0\r\nA: b^\n\r\n", Reason::BareLf),
        ("0\r\nA^ : b\r\n\r\n", Reason::SpaceBeforeColon),
        ("0\r\nA: b\r\n^ c\r\n\r\n", Reason::Folded),
        ("0\r\nA^\r\n\r\n", Reason::NoColon),
        ("0\r\n^: b\r\n\r\n", Reason::EmptyName),
        ("0\r\n^Content-Length: 5\r\n\r\n", Reason::FramingTrailer),
        ("0\r\n^content_length: 5\r\n\r\n", Reason::FramingTrailer),
        ("0\r\nA: b\r\n^Transfer-Encoding: chunked\r\n\r\n", Reason::FramingTrailer),
        ("0\r\n^Host: b\r\n\r\n", Reason::FramingTrailer),
        ("800000000000000^0\r\n", Reason::ChunkOverflow),
        ("FFFFFFFFFFFFFFF^F\r\n", Reason::ChunkOverflow),
        ("1000000000000000^5\r\n", Reason::ChunkOverflow),
    ] {
        let offset = head.len() + body.find('^').unwrap();
        let stream = format!("{head}{}", body.replace('^', ""));
        check_refused(&stream, reason, offset);
        let refusal = requests(&stream).1.unwrap_err();
        assert_eq!((refusal.part, refusal.message_start), (Part::Body, 0), "{body:?}");
    }
    check(&format!("{head}7FFFFFFFFFFFFFFF\r\n"), "start@0 Chunked@56");
}

#[test]
fn caps_refuse_at_the_first_byte_too_many() {
    let limits = Limits { head_bytes: 100, headers: 3 };
    let check = |stream: &str, expected: Option<(Reason, u64)>| {
        let (_, end) = scan(|| Framer::requests(limits), stream.as_bytes());
        assert_eq!(end.err().map(|refusal| (refusal.reason, refusal.offset)), expected, "{stream:?}");
    };
    let start = "\r\nGET / HTTP/1.1\r\nHost: a\r\n";
    let pad = |bytes: usize| format!("{start}X: {}\r\n\r\n", "y".repeat(bytes));
    let fits = 102 - pad(0).len();
    check(&pad(fits), None);
    check(&pad(fits + 1), Some((Reason::HeadTooLarge, 102)));
    // Nobody waits for the end of a line that is too long.
    check(&format!("{start}{}", "x".repeat(200)), Some((Reason::HeadTooLarge, 102)));
    check(&format!("GET /{}", "x".repeat(200)), Some((Reason::TargetTooLong, 100)));
    check(&format!("GET /{} HTTP/1.1\r\n", "x".repeat(90)), Some((Reason::TargetTooLong, 100)));
    // A faulty line beyond the cap is beyond the cap.
    check(&format!("{start}{} : z\r\n", "x".repeat(200)), Some((Reason::HeadTooLarge, 102)));
    check(&format!("{start}A:\r\nB:\r\n\r\n"), None);
    check(&format!("{start}A:\r\nB:\r\nC:\r\n\r\n"), Some((Reason::TooManyHeaders, start.len() as u64 + 8)));

    let head = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let at = head.len() as u64;
    check(&format!("{head}0\r\nA:\r\nB:\r\nC:\r\n\r\n"), None);
    check(&format!("{head}0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n"), Some((Reason::TooManyHeaders, at + 15)));
    let line = |bytes: usize| format!("{head}1;{}\r\n", "x".repeat(bytes));
    check(&line(252), None);
    check(&line(253), Some((Reason::ChunkLineTooLong, at + 256)));
    check(&format!("{head}{}", "0".repeat(300)), Some((Reason::ChunkLineTooLong, at + 256)));
    check(&format!("{head}0\r\nA: {}\r\n\r\n", "x".repeat(17_000)), Some((Reason::TrailersTooLarge, at + 3 + 16_384)));
}

#[test]
fn boundaries_of_responses() {
    let ok = "HTTP/1.1 200 OK\r\n";
    check_response(Asked::Other, &format!("{ok}Content-Length: 2\r\n\r\nhi"), "start@0 Length(2)@38 end@40");
    check_response(
        Asked::Other,
        &format!("{ok}Transfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
        "start@0 Chunked@47 end@59",
    );
    check_response(Asked::Head, &format!("{ok}Content-Length: 2\r\n\r\n"), "start@0 None@38 end@38");
    check_response(Asked::Head, &format!("{ok}Transfer-Encoding: chunked\r\n\r\n"), "start@0 None@47 end@47");
    check_response(Asked::Head, &format!("{ok}\r\n"), "start@0 None@19 end@19");
    check_response(Asked::Other, "HTTP/1.1 204 No Content\r\n\r\n", "start@0 None@27 end@27");
    check_response(Asked::Other, "HTTP/1.1 304 \r\nContent-Length: 9\r\n\r\n", "start@0 None@36 end@36");
    check_response(Asked::Other, "HTTP/1.1 200\r\nContent-Length: 0\r\n\r\n", "start@0 Length(0)@35 end@35");
    check_response(Asked::Other, "HTTP/1.0 404 \u{e4}\t x\r\n\r\nbody\r\n\r\n", "start@0 UntilClose@22");
    check_response(
        Asked::Other,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx",
        "start@0 interim100@25 start@25 interim103@65 start@65 Length(1)@103 end@104",
    );
    check_response(
        Asked::Head,
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
        "start@0 interim100@25 start@25 None@63 end@63",
    );
}

#[test]
fn tunnels_are_opaque() {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n";
    check_response(Asked::Other, &format!("{switching}\n\0HTTP"), "start@0 None@77");
    check_response(Asked::Connect, "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n\0\0\0\0\0\0\0", "start@0 None@38");
    check_response(Asked::Connect, "HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", "start@0 Length(1)@38 end@39");

    let upgrade = "GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    for at in [upgrade.len(), upgrade.len() + 3] {
        let stream = format!("{upgrade}GET");
        let ((events, end), mut framer) = feed(Framer::requests(LIMITS), &stream.as_bytes()[..at], &[]);
        assert!(end.is_ok());
        assert!(events.iter().any(|event| matches!(event, Event::HeadEnd(head) if head.upgrade)));
        framer.tunnel();
        assert!(!framer.is_held());
        framer.feed(b"\n\0 anything", at as u64, &mut |event| panic!("{event:?}")).unwrap();
        framer.resume();
        framer.feed(b"\0", 1000, &mut |event| panic!("{event:?}")).unwrap();
    }
}

#[test]
fn bytes_behind_a_request_for_another_protocol_are_held_until_it_is_answered() {
    let upgrade = "Host: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n";
    for message in [
        format!("GET / HTTP/1.1\r\n{upgrade}\r\n"),
        format!("POST / HTTP/1.1\r\n{upgrade}Content-Length: 0\r\n\r\n"),
        format!("POST / HTTP/1.1\r\n{upgrade}Content-Length: 3\r\n\r\nabc"),
        format!("POST / HTTP/1.1\r\n{upgrade}Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"),
        "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
    ] {
        let end = message.len() as u64;
        let (events, judged) = requests(format!("{message}\0\n: whatever"));
        assert_eq!((events.last(), judged), (Some(&Event::BodyEnd { offset: end }), Ok(())), "{message:?}");
        let (_, mut framer) = feed(Framer::requests(LIMITS), message.as_bytes(), &[]);
        assert!(framer.is_held() && !framer.is_between_messages());
        framer.resume();
        assert!(!framer.is_held() && framer.is_between_messages());
        let mut starts = Vec::new();
        let next = framer.feed(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\n", end, &mut |event| starts.push(event));
        assert_eq!(starts.first(), Some(&Event::MessageStart { offset: end }));
        assert_eq!(next.unwrap_err().reason, Reason::Nul, "what follows is judged again");
    }
    // Nor are they once it is answered, though it goes on.
    let (begun, rest) = (format!("POST / HTTP/1.1\r\n{upgrade}Content-Length: 3\r\n\r\na"), b"bcGET");
    let (_, mut framer) = feed(Framer::requests(LIMITS), begun.as_bytes(), &[]);
    framer.resume();
    let mut last = None;
    framer.feed(rest, begun.len() as u64, &mut |event| last = Some(event)).unwrap();
    assert_eq!(last, Some(Event::MessageStart { offset: begun.len() as u64 + 2 }));
    // Neither an unfinished message nor an ordinary one holds anything back.
    for stream in [
        format!("POST / HTTP/1.1\r\n{upgrade}Content-Length: 3\r\n\r\nab"),
        format!("GET / HTTP/1.0\r\n{upgrade}\r\n"),
        format!("GET / HTTP/1.1\r\n{upgrade}\r\n").replace("Connection: Upgrade", "Connection: close"),
    ] {
        assert!(!feed(Framer::requests(LIMITS), stream.as_bytes(), &[]).1.is_held(), "{stream:?}");
    }
}

#[test]
fn heads_say_what_they_ask_of_the_connection() {
    for (line, fields, upgrade, keep_alive) in [
        ("GET / HTTP/1.1", "", false, true),
        ("GET / HTTP/1.1", "Connection: keep-alive\r\n", false, true),
        ("GET / HTTP/1.1", "Connection: Close\r\n", false, false),
        ("GET / HTTP/1.1", "Connection: keep-alive\r\nConnection: x , close\r\n", false, false),
        ("GET / HTTP/1.1", "Connection: closed\r\n", false, true),
        ("GET / HTTP/1.0", "", false, false),
        ("GET / HTTP/1.0", "Connection: Keep-Alive\r\n", false, true),
        ("GET / HTTP/1.0", "Connection: keep-alive, close\r\n", false, false),
        ("GET / HTTP/1.1", "Connection: upgrade\r\nUpgrade: h2c\r\n", true, true),
        ("GET / HTTP/1.1", "Upgrade: h2c\r\n", false, true),
        ("GET / HTTP/1.1", "Connection: upgrade\r\n", false, true),
        ("GET / HTTP/1.0", "Connection: upgrade\r\nUpgrade: h2c\r\n", false, false),
        ("CONNECT a:443 HTTP/1.1", "", true, true),
        ("CONNECTS a:443 HTTP/1.1", "", false, true),
    ] {
        let (events, _) = requests(format!("{line}\r\nHost: a\r\n{fields}\r\n"));
        let Some(Event::HeadEnd(head)) = events.get(1) else { panic!("{events:?}") };
        assert_eq!((head.upgrade, head.keep_alive), (upgrade, keep_alive), "{line} {fields:?}");
    }
}

#[test]
fn responses_with_ambiguous_framing_are_refused() {
    for (stream, reason) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", Reason::ManyLengths),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::LengthAndEncoding),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", Reason::BadEncoding),
        ("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", Reason::EncodingOnHttp10),
        ("HTTP/1.1 200 OK\nContent-Length: 1\r\n\r\n", Reason::BareLf),
        ("HTTP/1.1 200 O\0K\r\n\r\n", Reason::Nul),
        ("HTTP/1.1 200 O\rK\r\n\r\n", Reason::BareCr),
        ("HTTP/1.1 2000 OK\r\n\r\n", Reason::BadStatusLine),
        ("HTTP/1.1 20 OK\r\n\r\n", Reason::BadStatusLine),
        ("HTTP/1.1 099 OK\r\n\r\n", Reason::BadStatusLine),
        ("HTTP/1.1  200 OK\r\n\r\n", Reason::BadStatusLine),
        ("HTTP/1.1 +20 OK\r\n\r\n", Reason::BadStatusLine),
        ("HTTP/2.0 200 OK\r\n\r\n", Reason::UnsupportedVersion),
        ("HTTP/1.1\r\n\r\n", Reason::BadStatusLine),
        ("200 OK\r\n\r\n", Reason::BadStatusLine),
        ("\r\nHTTP/1.1 200 OK\r\n\r\n", Reason::EmptyLines),
    ] {
        let refusal = response(Asked::Other, stream).1.expect_err(stream);
        assert_eq!(refusal.reason, reason, "{stream:?}");
    }
}

#[test]
fn a_response_needs_a_request() {
    let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
    let mut framer = Framer::responses(Limits::UPSTREAM);
    let mut count = 0;
    for turn in 0..3 {
        framer.expect(Asked::Other);
        assert!(framer.is_between_messages());
        framer.feed(answer, turn * answer.len() as u64, &mut |_| count += 1).unwrap();
    }
    assert_eq!(count, 9);
    let refusal = framer.feed(answer, 111, &mut |event| panic!("{event:?}")).unwrap_err();
    assert_eq!((refusal.reason, refusal.offset), (Reason::Unasked, 111));
    let second = [answer.as_slice(), b"HTTP/1.1 200 OK\r\n"].concat();
    assert_eq!(response(Asked::Other, second).1.unwrap_err().offset, answer.len() as u64);
}

#[test]
fn a_body_until_close_ends_with_the_stream_and_nothing_else_does() {
    let end = |stream: &str| {
        let mut framer = Framer::responses(Limits::UPSTREAM);
        framer.expect(Asked::Other);
        framer.feed(stream.as_bytes(), 0, &mut |_| {}).unwrap();
        (framer.end_of_stream(stream.len() as u64), framer.is_between_messages())
    };
    let body = "HTTP/1.1 200 OK\r\n\r\nbody";
    assert_eq!(end(body), (Some(Event::BodyEnd { offset: 23 }), true));
    for cut in [
        "H",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nx",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n",
    ] {
        assert_eq!(end(cut), (None, false), "{cut:?}");
    }
    assert_eq!(end(""), (None, true));
}

#[test]
fn once_refused_always_refused_and_the_good_messages_before_are_reported() {
    let good = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let stream = format!("{good}GET / HTTP/1.1\r\nHost: a\r\nA : b\r\n\r\n{good}");
    let (events, end) = requests(&stream);
    assert_eq!(brief(&events), "start@0 None@27 end@27 start@27");
    let refusal = end.unwrap_err();
    assert_eq!((refusal.message_start, refusal.part), (27, Part::Head));
    let (_, mut framer) = feed(Framer::requests(LIMITS), stream.as_bytes(), &[]);
    framer.tunnel();
    assert_eq!(framer.feed(good.as_bytes(), 500, &mut |event| panic!("{event:?}")), Err(refusal));
    assert_eq!(refusal.to_string(), "whitespace in or behind a header name at byte 53");
}

#[test]
fn every_refusal_has_a_whole_response() {
    for reason in Reason::ALL {
        let refusal = Refusal { offset: 0, message_start: 0, part: Part::Head, reason: *reason };
        let ((events, end), mut framer) = {
            let mut framer = Framer::responses(Limits::UPSTREAM);
            framer.expect(Asked::Other);
            feed(framer, refusal.response(), &[])
        };
        assert_eq!(end, Ok(()));
        let Some(Event::HeadEnd(head)) = events.get(1) else { panic!("{events:?}") };
        assert_eq!((head.status, head.keep_alive), (reason.status(), false));
        assert_eq!(events.get(2), Some(&Event::BodyEnd { offset: refusal.response().len() as u64 }));
        assert!(framer.end_of_stream(0).is_none() && !reason.text().is_empty());
    }
}

#[test]
fn a_split_head_leaves_little_memory_behind() {
    let stream = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "y".repeat(9000));
    let ((_, end), framer) = feed(Framer::requests(LIMITS), stream.as_bytes(), &[100, 5000]);
    assert!(end.is_ok() && framer.carry.capacity() <= CARRY_KEPT);
}

/// Pieces that make streams near the border of what is accepted.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let whole = prop::sample::select(vec![
        "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab\r\nc",
        "PUT / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3;x\r\nabc\r\n10\r\n0123456789abcdef\r\n0\r\nT: u\r\n\r\n",
        "\r\n",
    ]);
    let piece = prop::sample::select(vec![
        "GET ",
        "/ ",
        "HTTP/1.1\r\n",
        "Host: a\r\n",
        "Content-Length: 2\r\n",
        "Transfer-Encoding: chunked\r\n",
        "\r\n",
        "\r",
        "\n",
        ":",
        " ",
        "\t",
        "\0",
        "0\r\n",
        "2\r\nab\r\n",
        "A: b\r\n",
        "\u{e4}",
    ]);
    let part = prop_oneof![6 => whole, 1 => piece];
    (prop::collection::vec(part, 1..8), prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..2))
        .prop_map(|(parts, changes)| {
            let mut bytes = parts.concat().into_bytes();
            for (index, byte) in changes {
                let at = index.index(bytes.len());
                bytes[at] = byte;
            }
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn reads_change_nothing(bytes in stream(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(bytes.len() + 1)).collect();
        cuts.sort_unstable();
        let limits = Limits { head_bytes: 90, headers: 4 };
        for limits in [LIMITS, limits] {
            let (whole, _) = feed(Framer::requests(limits), &bytes, &[]);
            let (split, _) = feed(Framer::requests(limits), &bytes, &cuts);
            prop_assert_eq!(&split, &whole);
        }
    }

    #[test]
    fn hypers_parser_reads_accepted_heads_alike(bytes in stream()) {
        let ((events, _), _) = feed(Framer::requests(LIMITS), &bytes, &[]);
        for event in events {
            let Event::HeadEnd(head) = event else { continue };
            let from = usize::try_from(head.start).unwrap();
            if std::str::from_utf8(&bytes[from..usize::try_from(head.end).unwrap()]).is_err() {
                // hyper refuses some targets that are no UTF-8; it reads none of them otherwise.
                continue;
            }
            let mut fields = [httparse::EMPTY_HEADER; 100];
            let mut request = httparse::Request::new(&mut fields);
            let read = request.parse(&bytes[from..]);
            prop_assert_eq!(read, Ok(httparse::Status::Complete(usize::try_from(head.end).unwrap() - from)));
            prop_assert_eq!(request.version, Some(head.minor));
            let value = |name: &str| request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name));
            let body = match (value("content-length"), value("transfer-encoding")) {
                (Some(length), _) => Body::Length(std::str::from_utf8(length.value).unwrap().trim().parse().unwrap()),
                (None, Some(_)) => Body::Chunked,
                (None, None) => Body::None,
            };
            prop_assert_eq!(head.body, body);
        }
    }
}
