//! Requests that are wrong, and what the API of a real daemon says to them.

use proto_core::api::ErrorBody;
use proto_core::api::requests::MAX_BYTES;

use crate::harness::{Machine, nats_server};

const JSON: &str = "content-type: application/json\r\n";

#[test]
fn every_mistake_in_a_request_is_answered_with_a_code_and_a_next_command() {
    let Some(nats_server) = nats_server() else { return };
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let said = |line: &str, headers: &str, body: &str| {
        let length = body.len();
        let head = format!("{line} HTTP/1.1\r\nhost: ployzd\r\nconnection: close\r\n{headers}");
        let answer =
            machine.raw(format!("{head}content-length: {length}\r\n\r\n{body}").as_bytes());
        let (head, body) = answer.split_once("\r\n\r\n").expect("an answer of HTTP");
        let head = head.to_ascii_lowercase();
        assert!(head.contains("\r\ncontent-type: application/json"), "{line}: {answer}");
        let error: ErrorBody =
            serde_json::from_str(body).unwrap_or_else(|error| panic!("{line}: {error}: {answer}"));
        assert!(error.next.is_some() && !error.message.is_empty(), "{line}: {error:?}");
        assert!(error.message.is_ascii() && !error.message.contains('\n'), "{line}: {error:?}");
        let status = head.split(' ').nth(1).expect("a status").to_owned();
        let place = error.message.contains("line 1, column ");
        assert_eq!(place, matches!(&*error.code, "BODY_NO_JSON" | "BODY_INVALID"), "{error:?}");
        // The words of the libraries are not ours.
        let leaks = ["deserialize", "Failed", "Json", "query string"];
        assert!(!leaks.iter().any(|word| error.message.contains(word)), "{error:?}");
        (format!("{status} {}", error.code), head)
    };
    let gets = [
        ("GET /", "404 NO_SUCH_ENDPOINT"),
        ("GET /v1/nothing", "404 NO_SUCH_ENDPOINT"),
        ("PATCH /v1/nothing", "404 NO_SUCH_ENDPOINT"),
        ("PUT /v1/operations", "405 METHOD_NOT_ALLOWED"),
        ("POST /v1/status", "405 METHOD_NOT_ALLOWED"),
        ("GET /v1/logs", "400 QUERY_INVALID"),
        ("GET /v1/logs?instance=web-0&tail=many", "400 QUERY_INVALID"),
        ("GET /v1/logs?instance=web-0&tial=1", "400 QUERY_INVALID"),
        ("GET /v1/logs?instance=Web", "400 INVALID_NAME"),
        ("GET /v1/logs?instance=web-0", "404 NO_SUCH_INSTANCE"),
        ("GET /v1/events?follow=perhaps", "400 QUERY_INVALID"),
        ("GET /v1/instances?namespace=A", "400 INVALID_NAME"),
        ("GET /v1/namespaces/%ff/commits", "400 PATH_INVALID"),
        ("GET /v1/namespaces/A/commits", "400 INVALID_NAME"),
        ("GET /v1/namespaces/nowhere/commits", "404 NO_SUCH_NAMESPACE"),
        ("GET /v1/operations/none", "400 INVALID_NAME"),
        ("GET /v1/operations/0123456789abcdef", "404 NO_SUCH_OPERATION"),
    ];
    let posts = [
        ("POST /v1/operations", JSON, "{", "400 BODY_NO_JSON"),
        ("POST /v1/operations", JSON, "", "400 BODY_NO_JSON"),
        ("POST /v1/operations", JSON, "{}", "422 BODY_INVALID"),
        ("POST /v1/operations", "", "{}", "415 CONTENT_TYPE_WRONG"),
        ("POST /v1/operations", "content-type: text/plain\r\n", "{}", "415 CONTENT_TYPE_WRONG"),
        ("POST /v1/operations/cancel", JSON, r#"{"handle": "seven"}"#, "422 BODY_INVALID"),
        ("POST /v1/exec", JSON, r#"{"instance": "Web", "command": []}"#, "422 BODY_INVALID"),
        ("POST /v1/shutdown", JSON, "[", "400 BODY_NO_JSON"),
        ("POST /v1/shutdown", JSON, r#"{"workloads": "burn"}"#, "422 BODY_INVALID"),
    ];
    for (line, expected) in gets {
        assert_eq!(said(line, "", "").0, expected, "{line}");
    }
    for (line, headers, body, expected) in posts {
        assert_eq!(said(line, headers, body).0, expected, "{line} {headers:?} {body}");
    }
    let (_, head) = said("PUT /v1/operations", "", "");
    assert!(head.contains("\r\nallow: get,head,post"), "{head}");
    let longest = " ".repeat(MAX_BYTES);
    assert_eq!(said("POST /v1/operations", JSON, &longest).0, "400 BODY_NO_JSON");
    let longer = longest + " ";
    assert_eq!(said("POST /v1/operations", JSON, &longer).0, "413 BODY_TOO_LARGE");
    machine.take_down();
}
