//! docs/openapi.json against what a real daemon answers.

use proto_core::api::OperationResult;
use serde_json::{Value, json};

use crate::harness::{Machine, nats_server};
use crate::operations::SLEEPER;

#[test]
fn every_answer_is_of_the_published_shape() {
    let Some(nats_server) = nats_server() else { return };
    let text = include_str!("../../../docs/openapi.json");
    let description: Value = serde_json::from_str(text).unwrap();
    let mut machine = Machine::found(&nats_server);
    machine.start().wait("daemon", "READY");
    let deployed = machine.deploy(SLEEPER);
    let OperationResult::Committed { operation, .. } = &deployed else { panic!("{deployed:?}") };
    let instances: Value =
        serde_json::from_str(&machine.answer("GET", "/v1/instances", "")).unwrap();
    let instance = instances["rows"][0]["instance"]["spec"]["name"].as_str().unwrap();

    let mut asked = 0;
    for (path, methods) in description["paths"].as_object().unwrap() {
        let Some(get) = methods.get("get") else { continue };
        let mut path = path.clone();
        let mut query = Vec::new();
        for parameter in get["parameters"].as_array().unwrap_or(&Vec::new()) {
            let name = parameter["name"].as_str().unwrap();
            let example = match &parameter["example"] {
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            let value = match example.as_str() {
                "OPERATION" => operation.to_string(),
                "NAMESPACE" => "calm".to_owned(),
                "INSTANCE" => instance.to_owned(),
                _ => example,
            };
            if parameter["in"] == "path" {
                path = path.replace(&format!("{{{name}}}"), &value);
            } else {
                query.push(format!("{name}={value}"));
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        asked += check(&description, get, &path, &machine.answer("GET", &path, ""));
    }
    assert!(asked > 15, "only {asked} values were looked at");

    let exec = json!({ "instance": instance, "command": ["echo", "hello"] }).to_string();
    let post = |path: &str| &description["paths"][path]["post"];
    let lines = machine.answer("POST", "/v1/exec", &exec);
    assert_eq!(check(&description, post("/v1/exec"), "exec", &lines), 2, "{lines}");
    let resume = json!({ "mode": "resume", "operation": operation }).to_string();
    let lines = machine.answer("POST", "/v1/operations", &resume);
    assert!(check(&description, post("/v1/operations"), "resume", &lines) > 0, "{lines}");
    let error = machine.answer("GET", "/v1/namespaces/nowhere/commits", "");
    let shape = &description["components"]["schemas"]["Error"];
    fits(&description, shape, &serde_json::from_str(&error).unwrap(), "an error");
    machine.take_down();
}

/// Checks each document of an answer; how many there were.
fn check(description: &Value, operation: &Value, what: &str, body: &str) -> usize {
    let content = operation["responses"]["200"]["content"].as_object().unwrap();
    let (kind, schema) = content.iter().next().unwrap();
    let schema = &schema["schema"];
    if kind == "application/json" {
        let value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{what}: {e}: {body}"));
        fits(description, schema, &value, what);
        return value.as_array().map_or(1, Vec::len);
    }
    // What is no object is the size of a chunk.
    let lines = body.lines().filter_map(|line| serde_json::from_str(line).ok());
    lines.filter(Value::is_object).map(|line| fits(description, schema, &line, what)).count()
}

/// Panics unless the value has the shape: types, required and known properties, words of an enumeration.
fn fits(description: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        return fits(description, &description["components"]["schemas"][name], value, at);
    }
    let right = match schema["type"].as_str().unwrap_or_else(|| panic!("{at}: no type")) {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{at}: type {other}"),
    };
    assert!(right, "{at}: {value} is no {}", schema["type"]);
    if let Some(words) = schema["enum"].as_array() {
        assert!(words.contains(value), "{at}: {value} is none of {words:?}");
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        fits(description, &schema["items"], item, &format!("{at}[{index}]"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        assert!(value.get(name.as_str().unwrap()).is_some(), "{at}: {name} is missing: {value}");
    }
    for (name, inner) in value.as_object().into_iter().flatten() {
        match schema["properties"].get(name) {
            Some(schema) => fits(description, schema, inner, &format!("{at}.{name}")),
            None => {
                assert_eq!(schema["additionalProperties"], true, "{at}: {name} is not described")
            }
        }
    }
}
