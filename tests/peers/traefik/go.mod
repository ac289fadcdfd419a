// Pins Traefik, whose own tests say what it makes of its fixtures: `cargo xtask fixtures` copies the module, lays the files of
// recorder/ into the copy and runs its tests. Nothing of it is compiled here.
module wayspan/tests/peers/traefik

go 1.26

require github.com/traefik/traefik/v3 v3.7.9
