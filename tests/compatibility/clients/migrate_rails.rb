# An application with ActiveRecord in three versions: migrate_rails.rb FILE migrate|pending|insert VERSION [NAME]
require "active_record"

file, action, version, name = ARGV
version = version.to_i
ActiveRecord::Base.establish_connection(adapter: "sqlite3", database: file, timeout: 20_000)
ActiveRecord::Migration.verbose = false

class First < ActiveRecord::Migration[6.1]
  def up
    create_table(:items) { |t| t.string :name, null: false; t.integer :price, null: false; t.text :note }
  end
end

class Second < ActiveRecord::Migration[6.1]
  def up
    remove_column :items, :note
    add_column :items, :starred, :boolean, null: false, default: false
    change_column :items, :price, :float
    change_column_null :items, :price, true
  end
end

class Third < ActiveRecord::Migration[6.1]
  def up
    change_column :items, :name, :string, limit: 80, null: false
    add_index :items, :name, unique: true
  end
end

steps = [First, Second, Third].first(version).each_with_index.map { |step, at| step.new(step.name, at + 1) }
ledger = ActiveRecord::Base.connection.schema_migration
ledger.create_table if action == "migrate"
migrator = lambda { ActiveRecord::Migrator.new(:up, steps, ledger) }
case action
when "migrate" then migrator.call.migrate
when "pending"
  done = ledger.table_exists? ? ledger.all_versions.map(&:to_i) : []
  puts((1..version).all? { |each| done.include?(each) } ? "none" : "pending")
else
  Item = Class.new(ActiveRecord::Base) { self.table_name = "items" }
  item = Item.create!(name: name, price: 7)
  item.update!(price: 8)
end
