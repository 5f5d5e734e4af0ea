fn main() {
    chalk_metrics::codegen::generate("metrics.json");
}
