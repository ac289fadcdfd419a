//! Connections that have carried more than 32 bits can count.

use super::*;

/// Somewhat more than 4 GiB, and no round number.
const FAR: usize = (43 << 30) / 10 + 1;
const CHUNK: usize = 1 << 20;

/// So many bytes, of which nobody looks at any.
fn write_far(stream: &mut impl Write) {
    let chunk = vec![b'x'; CHUNK];
    let mut left = FAR;
    while left > 0 {
        let now = left.min(CHUNK);
        stream.write_all(&chunk[..now]).unwrap();
        left -= now;
    }
}

fn read_far(stream: &mut impl Read) {
    let mut chunk = vec![0; CHUNK];
    let mut left = FAR;
    while left > 0 {
        let read = stream.read(&mut chunk[..left.min(CHUNK)]).unwrap();
        assert!(read > 0, "{left} bytes are missing");
        left -= read;
    }
}

#[test]
#[ignore = "carries 8.6 GiB: cargo test -p wayspan-tests --test attribution -- --ignored four_gibibytes"]
fn behind_four_gibibytes_either_way_times_are_exact_to_the_byte() {
    let jaeger = Jaeger::start().unwrap();
    let (times, told) = mpsc::channel();
    let upstream = scripted(move |path, stream| match path {
        "/up" => {
            read_far(stream);
            stream.write_all(SHORT).unwrap();
        }
        "/down" => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {FAR}\r\n\r\n").unwrap();
            write_far(stream);
        }
        _ => {
            let taken = now();
            std::thread::sleep(PAUSE);
            times.send(At(taken, now())).unwrap();
            stream.write_all(SHORT).unwrap();
        }
    });
    let config = config::forward("PathPrefix(`/`)", upstream) + "probes: {backends: true}\n" + &config::traced(&jaeger);
    let mut agent = Agent::start(&config).unwrap();
    let mut client = TcpStream::connect(agent.address("web").unwrap()).unwrap();
    client.set_nodelay(true).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(client, "POST /up HTTP/1.1\r\nhost: h\r\ncontent-length: {FAR}\r\n\r\n").unwrap();
    write_far(&mut client);
    read_until(&mut client, BODY).unwrap();
    client.write_all(b"GET /down HTTP/1.1\r\nhost: h\r\n\r\n").unwrap();
    read_until(&mut client, b"\r\n\r\n").unwrap();
    read_far(&mut client);

    let stopped = Stopped::new(pid(&agent));
    let request = b"GET /timed HTTP/1.1\r\nhost: h\r\n\r\n";
    let (first, rest) = request.split_at(1);
    let (middle, last) = rest.split_at(rest.len() - 1);
    let sent = send_apart(&mut client, &[first, middle, last]);
    let on = now();
    drop(stopped);
    let worked = told.recv_timeout(PATIENCE).unwrap();
    read_until(&mut client, BODY).unwrap();

    let span = server_span(&jaeger, "/timed");
    exact_and_full(&span);
    lasts(&span, "client_send", sent[0], sent[2]);
    lasts(&span, "read_wait", sent[2], At(on, worked.0));
    lasts(&span, "backend_app", At(on, worked.0), At(worked.1, now()));
}
