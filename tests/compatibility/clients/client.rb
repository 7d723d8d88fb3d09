# Run SQL lines from standard input through the gem sqlite3 with its defaults: ruby client.rb FILE
require 'json'
require 'sqlite3'
db = SQLite3::Database.new(ARGV[0])
ok = refused = 0
error = ''
started = Process.clock_gettime(Process::CLOCK_MONOTONIC)
STDIN.each_line(chomp: true) do |sql|
  db.execute(sql)
  ok += 1
rescue SQLite3::Exception => e
  refused += 1
  error = e.message if error.empty?
end
taken = Process.clock_gettime(Process::CLOCK_MONOTONIC) - started
puts JSON.generate(ok: ok, refused: refused, s: taken, error: error, version: SQLite3::VERSION)
