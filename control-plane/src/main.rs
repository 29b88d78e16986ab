fn main() -> std::process::ExitCode {
    tagout_control_plane::cli::main()
}
