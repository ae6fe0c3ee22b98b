//! What the doors say of themselves, and a judge of values by a schema in one of these documents.

use jsonschema::{Draft, Registry, Validator};
use serde_json::{Value, json};

/// The HTTP of both doors, as it is compiled in.
pub const OPENAPI: &str = include_str!("../../shared/src/documents/openapi.json");
/// What is said on the streams, as it is compiled in.
pub const ASYNCAPI: &str = include_str!("../../shared/src/documents/asyncapi.json");

/// Reads a document.
pub fn read(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// A judge by a schema that stands in a document, and may point to its components.
pub fn judge(document: &Value, draft: Draft, schema: &Value) -> Validator {
    let whole = json!({ "components": document["components"], "allOf": [schema] });
    jsonschema::options().with_draft(draft).build(&whole).unwrap()
}

/// Everything that is wrong with a value, a line each; nothing if it is good.
pub fn faults(judge: &Validator, value: &Value) -> String {
    let faults = judge.iter_errors(value);
    faults.map(|fault| format!("{}: {fault}\n", fault.instance_path())).collect()
}

/// The official judge of OpenAPI 3.1, of the schemas in the document, too.
fn openapi_judge() -> Validator {
    let files = [
        include_str!("../specifications/openapi-3.1/schema.json"),
        include_str!("../specifications/openapi-3.1/dialect.json"),
        include_str!("../specifications/openapi-3.1/meta.json"),
    ];
    let schemas = files.map(read);
    let mut registry = Registry::new();
    for schema in &schemas {
        registry = registry.add(schema["$id"].as_str().unwrap(), schema).unwrap();
    }
    let registry = registry.prepare().unwrap();
    let base = read(include_str!("../specifications/openapi-3.1/schema-base.json"));
    jsonschema::options().with_registry(&registry).build(&base).unwrap()
}

fn asyncapi_judge() -> Validator {
    let schema = read(include_str!("../specifications/asyncapi-3.0/schema.json"));
    jsonschema::options().with_draft(Draft::Draft7).build(&schema).unwrap()
}

#[test]
fn the_document_of_http_is_openapi_3_1() {
    let judge = openapi_judge();
    let document = read(OPENAPI);
    assert_eq!(faults(&judge, &document), "");
    // The judge does judge: the document, and the schemas in it.
    for path in ["/paths/~1event/post/responses", "/components/schemas/Cursor/type"] {
        let mut broken = document.clone();
        *broken.pointer_mut(path).unwrap() = json!(7);
        assert!(!judge.is_valid(&broken), "{path}");
    }
}

#[test]
fn the_document_of_streams_is_asyncapi_3_0() {
    let judge = asyncapi_judge();
    let document = read(ASYNCAPI);
    assert_eq!(faults(&judge, &document), "");
    for path in ["/channels/native/messages", "/operations/nativeSend/action"] {
        let mut broken = document.clone();
        *broken.pointer_mut(path).unwrap() = json!(7);
        assert!(!judge.is_valid(&broken), "{path}");
    }
}

#[test]
fn the_documents_are_of_this_version() {
    for text in [OPENAPI, ASYNCAPI] {
        assert_eq!(read(text)["info"]["version"], env!("CARGO_PKG_VERSION"));
    }
}

/// Every `$ref` of a document leads to something in it.
#[test]
fn every_reference_leads_somewhere() {
    for text in [OPENAPI, ASYNCAPI] {
        let document = read(text);
        let references = text.split("\"$ref\": \"#").skip(1);
        let targets = references.map(|rest| rest.split('"').next().unwrap());
        for target in targets {
            assert!(document.pointer(target).is_some(), "{target}");
        }
    }
}

#[test]
fn every_example_is_one_of_what_it_stands_for() {
    let openapi = read(OPENAPI);
    let mut found = 0;
    for (path, item) in openapi["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            let answers = operation["responses"].as_object().into_iter().flat_map(|it| it.values());
            for holder in answers.chain(operation.get("requestBody")) {
                for media in holder["content"].as_object().into_iter().flat_map(|it| it.values()) {
                    let judge = judge(&openapi, Draft::Draft202012, &media["schema"]);
                    let more = media["examples"].as_object();
                    let more = more.into_iter().flat_map(|it| it.values()).map(|it| &it["value"]);
                    for example in more.chain(media.get("example")) {
                        assert_eq!(faults(&judge, example), "", "{method} {path}: {example}");
                        found += 1;
                    }
                }
            }
        }
    }
    assert!(found > 50, "only {found} were found");
    let asyncapi = read(ASYNCAPI);
    for (name, message) in asyncapi["components"]["messages"].as_object().unwrap() {
        let judge = judge(&asyncapi, Draft::Draft7, &message["payload"]);
        // AsyncAPI takes no lists and no strings as examples of a message: these stand in its schema.
        let listed = message["examples"].as_array().into_iter().flatten().map(|it| &it["payload"]);
        let inner = message["payload"]["examples"].as_array().into_iter().flatten();
        let examples: Vec<&Value> = listed.chain(inner).collect();
        assert!(!examples.is_empty(), "{name} has none");
        for example in examples {
            assert_eq!(faults(&judge, example), "", "{name}: {example}");
        }
    }
}
