# Every target installs the Debian packages it lacks, after asking whoever sits
# at the terminal; YES=1 answers for them. Go itself must be there.
#
#   make demo      a device with a software TPM, from nothing to its hub
#   make test      all tests with the race detector, then every fuzz target
#   make interop   unmodified device and service SDKs against a real server
#   make bench     the measurements, and bench-quick a few of them in less than a minute
#   make crash     servers and PostgreSQL killed KILLS times under load, and abused
#   make lint      formatting, layers, vet, staticcheck, shell scripts
#   make build     bin/berth

# How long each fuzz target runs.
FUZZTIME ?= 3s
# How often make crash kills a server on each engine; PostgreSQL itself, and
# either of two servers, a quarter as often.
KILLS ?= 100

# Go asks git for the version of the build, and fails where git refuses to
# answer: in somebody else's checkout.
ifneq ($(shell git status --porcelain >/dev/null 2>&1 && echo ok),ok)
export GOFLAGS += -buildvcs=false
endif

.PHONY: build demo test interop bench bench-quick crash lint clean

build:
	scripts/need =ca-certificates
	go build -o bin/ ./cmd/...

demo:
	scripts/need =ca-certificates swtpm
	$(MAKE) --no-print-directory build
	bin/berth demo

test:
	scripts/need =ca-certificates gcc =libc6-dev swtpm swtpm_setup=swtpm-tools tpm2_createek=tpm2-tools openssl =postgresql mosquitto nats-server
	go test -race -shuffle=on -timeout 20m ./...
	scripts/fuzz $(FUZZTIME)

interop:
	interop/run

bench:
	scripts/need =ca-certificates =postgresql mosquitto
	go run ./bench -json bench.json

# The main kinds of device and what devices do, for a rough idea: nine rounds if
# there is time.
bench-quick:
	scripts/need =ca-certificates =postgresql mosquitto
	@began=$$(date +%s); \
	go run ./bench -json bench.json -n 100 -rounds 9 -within 14s -imports 1000 -idle 2000 -twins 1000 \
		-servers sqlite:1000,sqlite:20000,postgres:1000 \
		-only symmetric_key,symmetric_key_individual,tpm,x509_group,x509_individual,messages,connections,idle,methods,twins,queries && \
	echo && echo "It took $$(($$(date +%s) - began)) s with the building."

crash:
	scripts/need =ca-certificates =postgresql
	go test -count=1 -timeout 180m -v ./internal/app/scenario -kills $(KILLS) -heavy -run 'Kill|Outlives|Notice|Move|Abuse'

lint:
	scripts/need =ca-certificates
	scripts/lint

clean:
	rm -rf bin interop/node/node_modules
