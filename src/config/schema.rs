//! The JSON Schema of a configuration, made from the types.

use super::RunConfig;

/// The schema as pretty JSON with a final newline; `assets/config.schema.json` is this text.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(RunConfig);
    let mut text = serde_json::to_string_pretty(schema.as_value()).unwrap_or_default();
    text.push('\n');
    text
}
