//! The worker: libtorch lives here.

fn main() {
    capstan::worker::main()
}
