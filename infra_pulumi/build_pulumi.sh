#!/bin/sh
# Builds the Pulumi CLI from the Go module proxy: build_pulumi.sh VERSION TARGET
# A module of its own requires it, since Go does not install a module that replaces others.
set -eu
version=$1 target=$2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
printf 'module saldo/pulumi-cli\n\ngo 1.24\n' >go.mod
go get "github.com/pulumi/pulumi/pkg/v3/cmd/pulumi@$version"
nice -n 10 go build -p 2 -trimpath \
    -ldflags "-s -w -X github.com/pulumi/pulumi/sdk/v3/go/common/version.Version=$version" \
    -o pulumi github.com/pulumi/pulumi/pkg/v3/cmd/pulumi
mkdir -p "$(dirname "$target")"
mv pulumi "$target"
