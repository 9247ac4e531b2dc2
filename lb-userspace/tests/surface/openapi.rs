//! The API's document: current, complete, and true of what is answered.

use std::{collections::BTreeSet, fs, path::Path};

use lb_userspace::api::openapi::document;
use serde_json::{Value, json};

use crate::fake::Daemon;

/// `WEIR_BLESS=1 cargo test -p lb-userspace --test surface openapi` writes it anew.
#[test]
fn the_committed_document_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/openapi.json");
    let text = format!("{:#}\n", document());
    if std::env::var_os("WEIR_BLESS").is_some() {
        fs::write(&path, &text).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == text, "docs/openapi.json is not current: run this test with WEIR_BLESS=1");
}

/// Methods and paths as the router's sources have them.
fn routes() -> BTreeSet<(String, String)> {
    let mut routes = BTreeSet::new();
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api")).unwrap() {
        let path = file.unwrap().path();
        let source = if path.is_file() { fs::read_to_string(path).unwrap() } else { String::new() };
        for route in source.split(".route(").skip(1) {
            let mut quoted = route.splitn(3, '"');
            let (_, path, rest) = (quoted.next(), quoted.next().unwrap(), quoted.next().unwrap());
            // What follows belongs to the route until the next one, or the end of the statement.
            let rest = rest.split(".merge(").next().unwrap().split(';').next().unwrap();
            for method in ["get", "post", "put", "delete", "patch"] {
                if rest.contains(&format!("{method}(")) {
                    routes.insert((method.to_owned(), path.replace("{*", "{")));
                }
            }
        }
    }
    routes
}

#[test]
fn every_route_is_in_it_and_nothing_else() {
    let document = document();
    let mut said = BTreeSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            said.insert((method.clone(), path.clone()));
            for name in path.split('{').skip(1).map(|part| part.split('}').next().unwrap()) {
                let parameters = operation["parameters"].as_array().unwrap();
                assert!(parameters.iter().any(|p| p["name"] == name && p["in"] == "path"), "{path}");
            }
        }
    }
    assert_eq!(said, routes());
    assert!(said.len() > 30);
}

/// Whether `value` is as `schema` says, so far as types of fields go: every field that is there is said, every required one is there.
fn check(document: &Value, schema: &Value, value: &Value, at: &str) -> Result<(), String> {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#'));
        return check(document, target.ok_or_else(|| format!("{at}: no {reference}"))?, value, at);
    }
    // Whatever it is.
    if schema.as_object().is_some_and(serde_json::Map::is_empty) {
        return Ok(());
    }
    for choice in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[choice].as_array()
            && schema.get("properties").is_none()
        {
            let errors: Vec<_> = choices.iter().map(|c| check(document, c, value, at)).collect();
            return match errors.iter().any(Result::is_ok) {
                true => Ok(()),
                false => Err(format!("{at}: {errors:?}")),
            };
        }
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let fits = |said: &Value| said == kind || said == "number" && kind == "integer";
    let good = match &schema["type"] {
        Value::Null => true,
        Value::Array(kinds) => kinds.iter().any(fits),
        one => fits(one),
    };
    let allowed = schema.get("const").is_none_or(|only| only == value)
        && schema["enum"].as_array().is_none_or(|all| all.contains(value));
    if !good || !allowed {
        return Err(format!("{at}: {value} is not {schema}"));
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
        check(document, &schema["items"], item, &format!("{at}[{index}]"))?;
    }
    let Some(fields) = value.as_object() else { return Ok(()) };
    for name in schema["required"].as_array().into_iter().flatten() {
        fields.get(name.as_str().unwrap()).ok_or_else(|| format!("{at}: no {name}"))?;
    }
    for (name, field) in fields {
        let at = format!("{at}.{name}");
        let alternatives =
            ["oneOf", "anyOf", "allOf"].into_iter().filter_map(|key| schema[key].as_array()).flatten();
        let said = schema["properties"]
            .get(name)
            .or_else(|| alternatives.into_iter().find_map(|part| part["properties"].get(name)));
        let said = said.or_else(|| schema.get("additionalProperties").filter(|more| more.is_object()));
        check(document, said.ok_or_else(|| format!("{at} is not in the document"))?, field, &at)?;
    }
    Ok(())
}

#[test]
fn what_is_answered_is_as_the_document_says() {
    let mut daemon = Daemon::start();
    daemon.record("west/w1");
    let served: Value = serde_json::from_str(&daemon.get("/v1/openapi.json").1).unwrap();
    assert_eq!(served, document());
    let body = |text: &str| Some(json!(text).as_str().unwrap().to_owned());
    let reason = body(r#"{"reason":"fans","for_s":60}"#);
    let domain = body(r#"{"domain":"west/w1","reason":"fans"}"#);
    let shift = body(r#"{"domain":"west/w1","keep_percent":50,"for_s":60,"reason":"r"}"#);
    let stop = body(r#"{"switch":{"kind":"stop","service":"web"},"for_s":60,"reason":"r"}"#);
    let canary = body(r#"{"service":"web","set":"web-west","permille":50,"reason":"r"}"#);
    let explain = "/v1/explain?src=198.51.100.7:40000&dst=192.0.2.10:80";
    for (method, path, said, body) in [
        ("get", "/v1/status", "/v1/status", None),
        ("get", "/v1/services", "/v1/services", None),
        ("get", "/v1/services/web", "/v1/services/{name}", None),
        ("get", "/v1/backends", "/v1/backends", None),
        ("get", "/v1/backends/w1r1b1", "/v1/backends/{name}", None),
        ("post", "/v1/backends/w1r1b1/drain", "/v1/backends/{name}/{action}", reason),
        ("get", "/v1/domains", "/v1/domains", None),
        ("get", "/v1/domains/west/w1", "/v1/domains/{path}", None),
        ("post", "/v1/domains/actions/fail", "/v1/domains/actions/{action}", domain.clone()),
        ("post", "/v1/shifts", "/v1/shifts", shift),
        ("get", "/v1/shifts", "/v1/shifts", None),
        ("post", "/v1/shifts/cancel", "/v1/shifts/cancel", domain),
        ("post", "/v1/canaries", "/v1/canaries", canary),
        ("get", "/v1/canaries", "/v1/canaries", None),
        ("post", "/v1/canaries/promote", "/v1/canaries/{action}", body(r#"{"service":"web","reason":"r"}"#)),
        ("get", "/v1/report", "/v1/report", None),
        ("get", "/v1/bfd", "/v1/bfd", None),
        ("get", "/v1/bfd/w1r1b1", "/v1/bfd/{backend}", None),
        ("get", "/v1/guards", "/v1/guards", None),
        ("get", "/v1/guards/web", "/v1/guards/{service}", None),
        ("post", "/v1/emergency", "/v1/emergency", stop),
        ("get", "/v1/emergency", "/v1/emergency", None),
        ("get", explain, "/v1/explain", None),
        ("get", "/v1/diff", "/v1/diff", None),
        ("get", "/v1/events", "/v1/events", None),
        ("get", "/v1/traffic", "/v1/traffic", None),
        ("get", "/v1/stats?by=reason", "/v1/stats", None),
        ("get", "/v1/stats?over=1", "/v1/stats", None),
        ("get", "/v1/flows?limit=2", "/v1/flows", None),
        ("post", "/v1/flows/flush", "/v1/flows/flush", body(r#"{"all":true,"reason":"r"}"#)),
        ("post", "/v1/reload", "/v1/reload", None),
        ("get", "/v1/plans", "/v1/plans", None),
        ("get", "/v1/log", "/v1/log", None),
        ("put", "/v1/log", "/v1/log", body(r#"{"filter":"debug","for_s":60}"#)),
        ("delete", "/v1/log", "/v1/log", None),
        ("get", "/v1/config", "/v1/config", None),
        ("get", "/v1/doctor", "/v1/doctor", None),
    ] {
        let (status, text) = match method {
            "get" => daemon.get(path),
            method => daemon.order(method, path, body.as_deref().unwrap_or_default()),
        };
        assert_eq!(status, 200, "{path}: {text}");
        let operation = &served["paths"][said][method];
        let answer: Value = serde_json::from_str(&text).unwrap();
        let schema = &operation["responses"]["200"]["content"]["application/json"]["schema"];
        check(&served, schema, &answer, path).unwrap();
        if let Some(body) = body {
            let body = serde_json::from_str(&body).unwrap();
            check(&served, &operation["requestBody"]["content"]["application/json"]["schema"], &body, path)
                .unwrap();
        }
    }
    let problem = serde_json::from_str(&daemon.get("/v1/services/nope").1).unwrap();
    let schema = &served["paths"]["/v1/status"]["get"]["responses"]["default"]["content"];
    check(&served, &schema["application/problem+json"]["schema"], &problem, "problem").unwrap();
    daemon.stop();
}
