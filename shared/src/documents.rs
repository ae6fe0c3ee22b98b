//! What the doors say of themselves: the same documents at each of them.

/// Where the HTTP of both doors is described.
pub const OPENAPI_PATH: &str = "/openapi.json";
/// The HTTP of both doors (OpenAPI 3.1).
pub const OPENAPI: &str = include_str!("documents/openapi.json");
/// Where the streams are described.
pub const ASYNCAPI_PATH: &str = "/asyncapi.json";
/// What is said on the streams (AsyncAPI 3.0).
pub const ASYNCAPI: &str = include_str!("documents/asyncapi.json");
