//! The worker: libtorch lives here.

fn main() {
    capstan::launch::worker::main()
}
