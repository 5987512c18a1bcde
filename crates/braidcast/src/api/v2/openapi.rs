//! The OpenAPI document of the native API, from the table of endpoints and the types of answers: it cannot say anything else than they do.

use super::endpoints::{Content, ENDPOINTS, EVENT, Endpoint, Form, MOST, PAGE, PATH_PARAMETERS, PREFIX, PROBLEM, Parameter, Shape, Verb};
use crate::api::answer::PROBLEM_JSON;
use std::collections::BTreeMap;
use std::sync::LazyLock;
use utoipa::openapi::path::{HttpMethod, Operation, OperationBuilder, ParameterBuilder, ParameterIn, PathsBuilder};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{ComponentsBuilder, ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, InfoBuilder, OpenApiBuilder, Ref, RefOr, Required, Response, ResponseBuilder, Schema};

/// What goes wrong with any request.
const ERRORS: &[(u16, &str)] = &[
    (400, "The request, or a parameter of it, is malformed."),
    (401, "The API asks who sends it, and there is no right token or password."),
    (403, "It comes from a web page of another origin, from another machine, or may only read."),
    (413, "Its content is longer than 16 KiB."),
    (429, "Too many wrong tokens or passwords came from its address."),
    (431, "Its head is longer than `[limits] http_head_bytes`."),
    (500, "The shared directory cannot be read."),
    (503, "Too many requests are under way, or the front is being replaced: ask again."),
    (504, "No answer came in time: ask again."),
];

/// The document, as JSON.
pub fn document() -> &'static str {
    static DOCUMENT: LazyLock<String> = LazyLock::new(write);
    &DOCUMENT
}

fn write() -> String {
    let mut schemas = BTreeMap::new();
    put(&mut schemas, PROBLEM);
    put(&mut schemas, EVENT);
    let mut paths = PathsBuilder::new();
    for endpoint in ENDPOINTS {
        let method = match endpoint.verb {
            Verb::Get => HttpMethod::Get,
            Verb::Post => HttpMethod::Post,
            Verb::Delete => HttpMethod::Delete,
        };
        let item = utoipa::openapi::PathItem::new(method, operation(endpoint, &mut schemas));
        paths = paths.path(format!("{PREFIX}{}", endpoint.path), item);
    }
    let components = schemas.into_iter().fold(ComponentsBuilder::new(), |components, (name, schema)| components.schema(name, schema));
    let components = components
        .security_scheme("token", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)))
        .security_scheme("user", SecurityScheme::Http(Http::new(HttpAuthScheme::Basic)));
    let info = InfoBuilder::new()
        .title("Braidcast")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("The native API of a Braidcast instance. Any worker answers for all of them."));
    let document = OpenApiBuilder::new().info(info).paths(paths).components(Some(components.build())).build();
    serde_json::to_string(&document).expect("the document holds only text, numbers, lists and maps with text as keys")
}

fn put(schemas: &mut BTreeMap<String, RefOr<Schema>>, shape: Shape) -> RefOr<Schema> {
    let name = (shape.name)().into_owned();
    let mut parts = Vec::new();
    (shape.parts)(&mut parts);
    schemas.extend(parts);
    schemas.insert(name.clone(), (shape.schema)());
    RefOr::Ref(Ref::from_schema_name(name))
}

fn operation(endpoint: &Endpoint, schemas: &mut BTreeMap<String, RefOr<Schema>>) -> Operation {
    let mut operation = OperationBuilder::new().operation_id(Some(endpoint.id)).tag(endpoint.group).summary(Some(endpoint.summary));
    if !endpoint.about.is_empty() {
        operation = operation.description(Some(endpoint.about));
    }
    let in_path = PATH_PARAMETERS.iter().filter(|parameter| endpoint.path.contains(&format!("{{{}}}", parameter.name)));
    for parameter in in_path {
        operation = operation.parameter(described(parameter, ParameterIn::Path));
    }
    for parameter in endpoint.query {
        operation = operation.parameter(described(parameter, ParameterIn::Query));
    }
    if let Some(shape) = endpoint.body {
        let content = ContentBuilder::new().schema(Some(put(schemas, shape))).build();
        operation = operation
            .request_body(Some(RequestBodyBuilder::new().content("application/json", content).required(Some(Required::True)).build()));
    }
    let (status, about, content) = endpoint.success;
    operation = operation.response(status.to_string(), success(about, content, schemas));
    for (status, about) in ERRORS.iter().chain(endpoint.errors) {
        let content = ContentBuilder::new().schema(Some(RefOr::<Schema>::Ref(Ref::from_schema_name((PROBLEM.name)())))).build();
        operation =
            operation.response(status.to_string(), ResponseBuilder::new().description(*about).content(PROBLEM_JSON, content).build());
    }
    for scheme in ["token", "user"] {
        operation = operation.security(SecurityRequirement::new(scheme, [] as [&str; 0]));
    }
    // On loopback it may ask for nothing.
    operation.security(SecurityRequirement::default()).build()
}

fn success(about: &str, content: Content, schemas: &mut BTreeMap<String, RefOr<Schema>>) -> Response {
    let text = || RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::String).build()));
    let (media_type, schema) = match content {
        Content::Json(shape) => ("application/json", put(schemas, shape)),
        Content::AnyJson => ("application/json", RefOr::T(Schema::Object(ObjectBuilder::new().schema_type(Type::Object).build()))),
        Content::Events => ("text/event-stream", text()),
        Content::Html => ("text/html; charset=utf-8", text()),
    };
    ResponseBuilder::new().description(about).content(media_type, ContentBuilder::new().schema(Some(schema)).build()).build()
}

fn described(parameter: &Parameter, place: ParameterIn) -> utoipa::openapi::path::Parameter {
    let whole =
        |least: u64, most: u64| ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(least as f64)).maximum(Some(most as f64));
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let schema = match parameter.form {
        Form::Number => whole(1, u16::MAX.into()),
        Form::Count => whole(1, MOST as u64).default(Some(PAGE.into())),
        Form::EventId => ObjectBuilder::new().schema_type(Type::Integer).minimum(Some(0)),
        Form::Conn => text().pattern(Some(r"^c(0|[1-9][0-9]{0,17})$")),
        Form::Text => text(),
        Form::Kinds => text().examples(["publish,unpublish"]),
    };
    let required = if place == ParameterIn::Path { Required::True } else { Required::False };
    ParameterBuilder::new()
        .name(parameter.name)
        .parameter_in(place)
        .required(required)
        .description(Some(parameter.about))
        .schema(Some(schema.build()))
        .build()
}
