source /tmp/newuser/venv/bin/activate; export LEANBASE_API_KEY=phc_x LEANBASE_HOST=http://127.0.0.1:18999 DJANGO_SETTINGS_MODULE=settings
P=18910; B=http://127.0.0.1:$P
run() { d=$1; n=$2; shift 2; cd /tmp/newuser/$d; echo; echo "=== $d $* ($n requests, then ${W:-0}s)"; timeout 60 env "$@" > ../o2.txt 2>&1 & U=$!; sleep 2.5; for i in $(seq $n); do curl -s -m 15 -o /dev/null  $B/orders/$i; done; sleep ${W:-0};  T=$(date +%s.%N); kill -TERM $(pgrep -P $U); wait $U; echo "rc $? stop $(echo "$(date +%s.%N)-$T"|bc)"; grep -v '"GET' ../o2.txt | cut -c1-300|head -20; }
run fa 6 uvicorn app:app --port $P
run fa 6 uvicorn app:app --port $P
W=12 run fa 6 uvicorn app:app --port $P
run fa 6 LEANBASE_SYNC_MODE=false uvicorn app:app --port $P
run dj 6 uvicorn asgi:application --port $P
run dj 6 LEANBASE_SYNC_MODE=false uvicorn asgi:application --port $P
